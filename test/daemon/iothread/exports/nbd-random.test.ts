// SPDX-License-Identifier: Apache-2.0
// Random clients of an NBD export against a plain array: many requests at once that do not touch each other, in pieces of
// any size on the wire. SEED=n repeats a run.

import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { newSeed, random } from '../../../helpers/graph.js'
import type { Answer, Ask, NbdClient } from '../../../helpers/nbd/client.js'
import { pattern, Served, type ServedOptions, STYLES } from '../../../helpers/nbd/served.js'

const MIB = 1 << 20
/** Odd, so that nothing is aligned at its end. */
const SIZE = 7 * MIB + 1536
const ROUNDS = 40

type Random = (below: number) => number

interface Asked {
  readonly ask: Ask
  /** Changes the model when it was done; then the answer is compared with it. */
  readonly done: (answer: Answer) => string | undefined
}

/** A request within [from, to) of the disk. */
function someRequest(model: Buffer, from: number, to: number, random: Random, client: NbdClient): Asked {
  const { replies } = client.agreed
  const offset = from + random(to - from)
  const length = 1 + random(to - offset)
  const fua = random(4) === 0 ? commandFlags.FUA : 0
  const range = { offset, length }
  switch (random(6)) {
    case 0:
    case 1: {
      const payload = pattern(offset, length, random(256))
      const flags = fua | (replies === 'extended' ? commandFlags.PAYLOAD_LEN : 0)
      const ask = { command: commands.WRITE, ...range, flags, payload }
      return { ask, done: () => void payload.copy(model, offset) }
    }
    case 2: {
      const flags = fua | (random(2) === 0 ? commandFlags.NO_HOLE : 0)
      const ask = { command: commands.WRITE_ZEROES, ...range, flags }
      return { ask, done: () => void model.fill(0, offset, offset + length) }
    }
    case 3:
      if (replies !== 'simple') return someStatus(model, range)
      return { ask: { command: commands.CACHE, ...range }, done: () => undefined }
    default: {
      const flags = replies !== 'simple' && random(3) === 0 ? commandFlags.DF : 0
      return {
        ask: { command: commands.READ, ...range, flags },
        done: ({ data }) =>
          data.equals(model.subarray(offset, offset + length)) ? undefined : 'other bytes',
      }
    }
  }
}

/** What is said to be zero has to be; what is said to be data may be anything. */
function someStatus(model: Buffer, range: { offset: number; length: number }): Asked {
  const { offset, length } = range
  const done = ({ status }: Answer) => {
    let at = offset
    for (const extent of status.get(0) ?? []) {
      const bytes = model.subarray(at, at + extent.length)
      if (extent.status !== 0 && !bytes.equals(Buffer.alloc(bytes.length))) return `no zeroes at ${at}`
      at += extent.length
    }
    return at > offset && at <= offset + length ? undefined : `extents to ${at}`
  }
  return { ask: { command: commands.BLOCK_STATUS, ...range }, done }
}

/** Requests of one round in one stream, cut at random places. */
async function round(client: NbdClient, model: Buffer, random: Random): Promise<string[]> {
  const count = 1 + random(60)
  const edges = Array.from({ length: count + 1 }, () => random(SIZE)).sort((one, other) => one - other)
  const asked: Asked[] = []
  for (let at = 0; at < count; at++) {
    const [from, to] = [edges[at] ?? 0, edges[at + 1] ?? 0]
    if (from < to) asked.push(someRequest(model, from, to, random, client))
  }
  const prepared = asked.map(({ ask }) => client.prepare(ask))
  const stream = Buffer.concat(prepared.map(({ bytes }) => bytes))
  const most = [64, 5000, 1 << 22][random(3)] ?? 1
  let writes = 0
  for (let at = 0; at < stream.length; ) {
    // The smallest pieces for the first few, or it would take for ever.
    const length = writes++ < 300 ? 1 + random(most) : stream.length
    client.socket.write(stream.subarray(at, at + length))
    at += length
    if (random(3) === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  const wrong: string[] = []
  for (const [index, { answer }] of prepared.entries()) {
    const { ask, done } = asked[index] as Asked
    const got = await answer
    const what = got.error === 0 ? done(got) : `error ${got.error} ${got.text}`
    if (what !== undefined) wrong.push(`${ask.command} ${ask.offset}+${ask.length}: ${what}`)
  }
  return wrong
}

async function play(t: Test, options: ServedOptions): Promise<void> {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  for (const style of STYLES) {
    const served = await Served.open(t, { size: SIZE, ...options })
    // As of clients that did not ask for block sizes.
    const blockSizes = { ...served.agreed(style).blockSizes, minimum: 1 }
    const client = () => served.client(style, { blockSizes })
    const clients = await Promise.all([client(), client()])
    const model = Buffer.alloc(SIZE)
    const pick = random(seed)
    const start = await clients[0]?.read(0, SIZE)
    start?.data.copy(model)
    const wrong: string[] = []
    for (let at = 0; at < ROUNDS && wrong.length === 0; at++)
      wrong.push(...(await round(clients[at % 2] as NbdClient, model, pick)))
    t.strictSame(wrong, [], `${style}, seed ${seed}`)
    for (const client of clients) client.disconnect()
    t.strictSame(await served.left(2), [undefined, undefined])
    await served.remove()
  }
}

t.test('on a disk in memory', (t) => play(t, {}))

t.test('on a disk that answers late and out of order', (t) =>
  play(t, {
    rules: [
      { op: 'read', nth: 3, 'delay-ms': 3, count: 0 },
      { op: 'write', nth: 5, 'delay-ms': 1, count: 40 },
    ],
  }),
)

for (const direct of [false, true])
  t.test(`on a file, ${direct ? 'past' : 'through'} the page cache`, async (t) => {
    const filename = join(t.testdir(), 'disk.img')
    writeFileSync(filename, pattern(0, MIB))
    truncateSync(filename, SIZE)
    const node = { driver: 'file', 'node-name': 'disk', filename, cache: { direct }, discard: 'unmap' }
    await play(t, { node })
  })
