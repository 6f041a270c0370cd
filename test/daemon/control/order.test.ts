// SPDX-License-Identifier: Apache-2.0
// Random sessions: whatever a client sends, in whatever pieces, each request has one answer, in order.

import fc from 'fast-check'
import t from 'tap'
import { CommandError } from '../../../daemon/errors.js'
import { ControlClient, serve } from '../../helpers/control-plane.js'

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)

/** Answered at once, a turn later, never known, failing at once, failing later. */
const commands = ['query-version', 'query-jobs', 'nonsense', 'query-block', 'query-block-jobs'] as const

const sessions = fc.record({
  oob: fc.boolean(),
  requests: fc.array(fc.constantFrom(...commands), { maxLength: 40 }),
  cuts: fc.array(fc.nat(4000), { maxLength: 10 }),
  halfClose: fc.boolean(),
})

const handlers = {
  'query-jobs': () => new Promise<never[]>((resolve) => setImmediate(resolve, [])),
  'query-block': () => {
    throw new CommandError('at once')
  },
  'query-block-jobs': () =>
    new Promise<never[]>((_resolve, reject) => setImmediate(reject, new CommandError('later'))),
}

t.test(`each request is answered once and in order (seed ${seed})`, async (t) => {
  const { path, close } = await serve(handlers)
  t.teardown(close)
  await fc.assert(
    fc.asyncProperty(sessions, async ({ oob, requests, cuts, halfClose }) => {
      const client = await ControlClient.ready(path, oob ? ['oob'] : [])
      const text = requests.map((execute, id) => JSON.stringify({ execute, id })).join('')
      const edges = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length]
      for (const [index, edge] of edges.slice(1).entries()) client.send(text.slice(edges[index], edge))
      if (halfClose) client.socket.end()
      for (const [id, command] of requests.entries()) {
        const answer = await client.next()
        const fails = command !== 'query-version' && command !== 'query-jobs'
        if (answer.id !== id || 'error' in answer !== fails)
          throw new Error(`${id}: ${JSON.stringify(answer)}`)
      }
      if (halfClose && (await client.line()) !== undefined) throw new Error('the connection was not closed')
      client.close()
    }),
    { seed, numRuns: 150 },
  )
})

t.test(`each JSON-RPC request is answered once (seed ${seed})`, async (t) => {
  const { path, close } = await serve(handlers)
  t.teardown(close)
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom(...commands), { minLength: 1, maxLength: 40 }),
      async (requests) => {
        const client = await ControlClient.open(path)
        await client.next()
        client.send(requests.map((method, id) => JSON.stringify({ jsonrpc: '2.0', method, id })).join(''))
        client.socket.end()
        const ids = (await client.rest()).map((line) => (JSON.parse(line) as { id: number }).id)
        const all = requests.map((_, id) => id)
        if (ids.sort((a, b) => a - b).join() !== all.join()) throw new Error(`answers to ${ids.join()}`)
      },
    ),
    { seed, numRuns: 100 },
  )
})
