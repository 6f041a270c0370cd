// SPDX-License-Identifier: Apache-2.0
// The QMP client: matching of replies, events, and what happens when the other side misbehaves.

import { createConnection } from 'node:net'
import { join } from 'node:path'
import { type Duplex, duplexPair } from 'node:stream'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { Client, ConnectionLost, QmpError } from '../../../daemon/cli/client.js'
import { JsonStream } from '../../../protocol/json-stream.js'
import { toText } from '../../../protocol/json-text.js'
import { isJsonObject } from '../../../protocol/json-value.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { event, greeting, type Script, ScriptedServer } from './scripted-server.js'

async function connected(t: Test, script: Script, firstWords?: string) {
  const path = join(shortFolder(t), 's')
  const server = await ScriptedServer.listen(path, script, firstWords)
  t.teardown(() => server.close())
  return { server, open: () => Client.open(createConnection({ path })) }
}

t.test('a refused command throws its class and text', async (t) => {
  const { open } = await connected(t, (request, say) =>
    say({ error: { class: 'DeviceNotActive', desc: "Block job 'x' not found" }, id: request.id }),
  )
  const client = await open()
  await t.rejects(client.execute('block-job-cancel'), {
    name: 'QmpError',
    command: 'block-job-cancel',
    errorClass: 'DeviceNotActive',
    message: "Block job 'x' not found",
  })
  client.close()
})

t.test('an answer that overtakes another reaches its own request', async (t) => {
  const held: unknown[] = []
  const { open } = await connected(t, (request, say) => {
    held.unshift({ return: { is: request.execute }, id: request.id })
    if (held.length === 2) for (const answer of held) say(answer)
  })
  const client = await open()
  const [first, second] = await Promise.all([client.execute('first'), client.execute('second')])
  t.same([first, second], [{ is: 'first' }, { is: 'second' }])
  client.close()
})

t.test('events before the answer are told before it', async (t) => {
  const { open } = await connected(t, (request, say) => {
    say(event('JOB_STATUS_CHANGE', { id: 'j', status: 'created' }))
    say({ return: {}, id: request.id })
  })
  const client = await open()
  const order: string[] = []
  client.onEvent(({ name, data }) => order.push(`${name} ${data?.status}`))
  await client.execute('x')
  order.push('answer')
  t.same(order, ['JOB_STATUS_CHANGE created', 'answer'])
  client.close()
})

t.test('the end of the connection rejects what waits and what comes', async (t) => {
  const { open, server } = await connected(t, () => server.hangUp())
  const client = await open()
  await t.rejects(client.execute('x'), ConnectionLost)
  await t.rejects(client.execute('y'), ConnectionLost)
  let told = 0
  client.onLost(() => told++)
  t.equal(told, 1, 'who listens late is told at once')
})

t.test('a peer that is no QMP server is refused', async (t) => {
  for (const words of ['SSH-2.0-OpenSSH_9.2\r\n', '{"hello": 1}', '[1]', '12 ']) {
    const { open } = await connected(t, () => undefined, words)
    await t.rejects(open(), { name: 'ConnectionLost', message: 'the peer does not speak QMP' }, words)
  }
})

t.test('a peer that leaves after its greeting is an error, not a hang', async (t) => {
  const [ours, theirs] = duplexPair()
  const opened = Client.open(ours)
  theirs.end(toText(greeting))
  await t.rejects(opened, ConnectionLost)
})

t.test('how the bytes are cut changes nothing', async (t) => {
  const answers: Record<string, unknown[]> = {
    qmp_capabilities: [{ return: {}, id: 1 }],
    two: [event('A', { text: 'ä €' }), { return: { big: 18446744073709551615n }, id: 2 }, event('B', {})],
    three: [{ error: { class: 'GenericError', desc: 'no' }, id: 3 }, event('C', {})],
  }
  const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 })
  await fc.assert(
    fc.asyncProperty(sizes, async (pieces) => {
      const [ours, theirs] = duplexPair()
      const parser = new JsonStream()
      theirs.on('data', (bytes: Uint8Array) => {
        for (const item of parser.push(bytes)) {
          if (item.kind === 'value' && isJsonObject(item.value)) {
            sayInPieces(theirs, answers[String(item.value.execute)] ?? [], pieces)
          }
        }
      })
      sayInPieces(theirs, [greeting], pieces)
      const client = await Client.open(ours)
      const seen: string[] = []
      const lastEvent = new Promise<void>((resolve) => {
        client.onEvent(({ name, data }) => {
          seen.push(`${name} ${data?.text ?? ''}`)
          if (name === 'C') resolve()
        })
      })
      seen.push(toText(await client.execute('two')))
      await t.rejects(client.execute('three'), QmpError)
      await lastEvent
      client.close()
      t.same(seen.toSorted(), ['A ä €', 'B ', 'C ', '{"big": 18446744073709551615}'])
    }),
    { numRuns: 30 },
  )
})

/** Writes values in pieces of the given sizes, bytes, over and over. */
function sayInPieces(stream: Duplex, values: readonly unknown[], sizes: readonly number[]): void {
  const bytes = new TextEncoder().encode(values.map((value) => `${toText(value)}\r\n`).join(''))
  let at = 0
  for (let n = 0; at < bytes.length; n++) {
    const size = sizes[n % sizes.length] ?? 1
    stream.write(bytes.subarray(at, at + size))
    at += size
  }
}
