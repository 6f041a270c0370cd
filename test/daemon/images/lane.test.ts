// SPDX-License-Identifier: Apache-2.0
// Clients that ask for one thing at a time and are served by a lane: they get what they would get without, and so does everybody
// else who looks at the image, or ends it.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Lane } from '../../../native/lane-types.js'
import type { IoEngine } from '../../../native/types.js'
import type { Client } from '../../helpers/http-pair.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { MiB, Scratch } from '../../helpers/scratch.js'
import { SlowFs, slowfsAbsent } from '../../helpers/slowfs.js'
import { pace } from '../../helpers/waiting.js'
import { random as seeded } from '../../native/kinds.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const BLOCK = 4096
/** More than are needed before a lane. */
const ROW = 40

const get = (at: number, more = '') =>
  `GET /images/t HTTP/1.1\r\nrange: bytes=${at}-${at + BLOCK - 1}\r\n${more}\r\n`
const put = (at: number, bytes: string, more = '') =>
  `PUT /images/t?flush=n HTTP/1.1\r\ncontent-range: bytes ${at}-${at + bytes.length - 1}/*\r\n` +
  `content-length: ${bytes.length}\r\n${more}\r\n${bytes}`

/** Sends a request in some pieces. @returns head and body of the reply */
async function ask(client: Client, ...pieces: readonly string[]): Promise<{ head: string; body: string }> {
  client.text = ''
  for (const piece of pieces) await client.send(piece)
  let whole = Number.POSITIVE_INFINITY
  const text = await client.until((text) => {
    const end = text.indexOf('\r\n\r\n') + 4
    const length = /\r\ncontent-length: (\d+)\r\n/.exec(text)?.[1]
    if (end > 4 && length !== undefined) whole = end + Number(length)
    return text.length >= whole
  })
  t.equal(text.length, whole, 'nothing comes behind a reply')
  const end = text.indexOf('\r\n\r\n') + 4
  return { head: text.slice(0, end), body: text.slice(end) }
}

/** Lanes that were lent, in their order. */
function lanesOf(engine: IoEngine): Lane[] {
  const lent: Lane[] = []
  const lend = engine.httpLane.bind(engine)
  engine.httpLane = (terms) => {
    const lane = lend(terms)
    lent.push(lane)
    return lane
  }
  return lent
}

async function setUp(t: Test, name: string, more: object = {}, holes = false, folder?: string) {
  const path = folder === undefined ? scratch.file(name) : join(folder, name)
  const model = Buffer.from(Array.from({ length: MiB }, (_, index) => (index * 7 + (index >> 12)) & 0xff))
  writeFileSync(path, holes ? '' : model)
  truncateSync(path, MiB)
  const test = await imageTable(t, path, 16, more)
  const client = await test.connect('')
  // Waited for many times.
  client.socket.setMaxListeners(0)
  return { ...test, path, model, lanes: lanesOf(test.engine), client }
}

const done = (lanes: readonly Lane[]) =>
  lanes.reduce((sum, lane) => sum + lane.counts().reads + lane.counts().writes, 0)

t.test('what a lane replies is what was replied without, but for the place', async (t) => {
  const { client, lanes, model } = await setUp(t, 'same')
  const heads = new Set<string>()
  for (let index = 0; index < ROW; index++) {
    const at = (index % 8) * BLOCK + 8 * BLOCK
    const { head, body } = await ask(client, get(at))
    t.equal(body, model.toString('latin1', at, at + BLOCK))
    t.match(head, new RegExp(`\r\ncontent-range: bytes ${at}-${at + BLOCK - 1}/${MiB}\r\n`))
    heads.add(head.replace(/\r\ndate: [^\r]+ GMT/, '').replace(/bytes \d+-\d+/, ''))
    t.match(head, /\r\ndate: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n/)
  }
  t.equal(heads.size, 1)
  t.ok(done(lanes) > ROW / 2, 'a lane did most of it')
})

t.test('random requests, usual and unusual ones, on one connection keep to a model', async (t) => {
  const { client, lanes, model, path } = await setUp(t, 'random')
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const block = () => random(MiB / BLOCK) * BLOCK
  for (let row = 0; row < 12; row++) {
    const writes = random(2) === 1
    for (let index = 0; index < 100 + random(60); index++) {
      const at = block()
      const bytes = String.fromCharCode(32 + random(90)).repeat(BLOCK)
      const text = writes ? put(at, bytes) : get(at)
      const cut = random(text.length)
      const pieces = random(3) === 0 ? [text.slice(0, cut), text.slice(cut)] : [text]
      const { head, body } = await ask(client, ...pieces.filter((piece) => piece !== ''))
      t.match(head, writes ? /^HTTP\/1.1 200/ : /^HTTP\/1.1 206/)
      if (writes) model.write(bytes, at, 'latin1')
      else t.equal(body, model.toString('latin1', at, at + BLOCK))
    }
    const at = block()
    switch (random(6)) {
      case 0: {
        const { body } = await ask(
          client,
          `GET /images/t HTTP/1.1\r\nrange: bytes=${at + 5}-${at + 99}\r\n\r\n`,
        )
        t.equal(body, model.toString('latin1', at + 5, at + 100))
        break
      }
      case 1: {
        t.match((await ask(client, put(at + 1, 'unaligned'))).head, /^HTTP\/1.1 200/)
        model.write('unaligned', at + 1, 'latin1')
        break
      }
      case 2:
        t.match((await ask(client, get(MiB))).head, /^HTTP\/1.1 416/)
        break
      case 3: {
        const zero = JSON.stringify({ op: 'zero', offset: at, size: BLOCK })
        const patch = `PATCH /images/t HTTP/1.1\r\ncontent-length: ${zero.length}\r\n\r\n${zero}`
        t.match((await ask(client, patch)).head, /^HTTP\/1.1 200/)
        model.fill(0, at, at + BLOCK)
        break
      }
      case 4:
        t.match(
          (await ask(client, get(at, 'x-other: yes\r\n'))).body,
          model.toString('latin1', at, at + BLOCK),
        )
        break
      default: {
        client.text = ''
        await client.send(get(0) + get(at))
        const text = await client.until(
          (text) =>
            text.match(/HTTP\/1.1 206/g)?.length === 2 &&
            text.length - text.lastIndexOf('\r\n\r\n') >= BLOCK + 4,
        )
        t.ok(text.endsWith(model.toString('latin1', at, at + BLOCK)))
      }
    }
  }
  t.ok(done(lanes) > 300, `lanes did ${done(lanes)} requests`)
  t.equal(Buffer.compare(readFileSync(path), model), 0)
})

t.test('what a lane did is told, each byte once', async (t) => {
  const { client, table, lanes } = await setUp(t, 'told', { ops: ['read'] })
  const status = () => table.handlers['image-status']({ key: 1 })
  for (let index = 0; index < ROW; index++) await ask(client, get((index % 20) * 3 * BLOCK))
  t.ok(done(lanes) > 0)
  t.equal((await status()).transferred, 20 * BLOCK)
  for (let index = 0; index < ROW; index++) await ask(client, get((index % 10) * BLOCK))
  t.equal((await status()).transferred, (20 + 10 - 4) * BLOCK)
})

t.test('a ticket that is made to expire under a lane is expired for its client', async (t) => {
  const { client, table, lanes } = await setUp(t, 'expires')
  for (let index = 0; index < ROW; index++) await ask(client, get(index * BLOCK))
  t.ok(done(lanes) > 0)
  await table.handlers['image-extend']({ key: 1, timeout: 0 })
  t.match((await ask(client, get(0))).head, /^HTTP\/1.1 403/)
})

t.test('a ticket that ends under a lane ends it: the next request is refused', async (t) => {
  const { client, table, lanes, reports } = await setUp(t, 'ends')
  for (let index = 0; index < ROW; index++) await ask(client, put(index * BLOCK, 'x'.repeat(BLOCK)))
  t.ok(done(lanes) > 0)
  await table.handlers['image-end']({ key: 1, stop: true })
  t.match(reports, [{ kind: 'image-left', back: {} }])
})

t.test('who asks for extents sees what a lane wrote', async (t) => {
  const { client, connect, lanes } = await setUp(t, 'extents', {}, true)
  const list = async () => {
    const other = await connect('GET /images/t/extents HTTP/1.1\r\nconnection: close\r\n\r\n')
    return JSON.parse((await other.until((text) => /\]$/.test(text))).split('\r\n\r\n')[1] ?? '') as object[]
  }
  await list()
  for (let index = 0; index < ROW; index++) await ask(client, put(index * BLOCK, 'y'.repeat(BLOCK)))
  t.ok(done(lanes) > 0)
  t.match((await list())[0], { start: 0, length: ROW * BLOCK, zero: false })
})

t.test('a client that is gone leaves nothing behind', async (t) => {
  const { client, table, reports, lanes } = await setUp(t, 'gone')
  for (let index = 0; index < ROW; index++) await ask(client, get(index * BLOCK))
  t.ok(done(lanes) > 0)
  client.socket.destroy()
  while (reports.length === 0) await new Promise(setImmediate)
  t.match(reports, [{ kind: 'image-left' }])
  t.equal((await table.handlers['image-status']({ key: 1 })).connections, 0)
})

t.test('heads that mean the same in other words are served without a lane, and alike', async (t) => {
  const { client, lanes, model } = await setUp(t, 'words')
  for (let index = 0; index < ROW; index++) await ask(client, get(index * BLOCK))
  const before = done(lanes)
  for (const range of ['bytes=00-4095', 'bytes=0-04095', 'Bytes=0-4095'])
    t.equal(
      (await ask(client, `GET /images/t HTTP/1.1\r\nrange: ${range}\r\n\r\n`)).body,
      model.toString('latin1', 0, BLOCK),
    )
  t.equal(done(lanes), before)
})

/** A lane whose write is stuck in its storage, until the rules are lifted. */
async function stuckWrite(t: Test, name: string, delayMs = 500) {
  const slow = await SlowFs.mount(scratch.path)
  t.teardown(() => slow.unmount())
  const test = await setUp(t, name, {}, false, slow.mount)
  const { client, engine, lanes } = test
  for (let index = 0; index < ROW; index++) await ask(client, put(index * BLOCK, 'x'.repeat(BLOCK)))
  const bytes = 'z'.repeat(BLOCK)
  slow.rules({ op: 'write', delayMs })
  const count = lanes.length
  const answer = ask(client, put(100 * BLOCK, bytes)).catch(() => undefined)
  while (engine.oldest()?.op !== 'write') await pace(2)
  const lane = lanes.at(-1)
  t.ok(lane !== undefined && lanes.length === count && lane.counts().writes > 0, 'a lane does it')
  return { ...test, slow, answer, bytes, lane: lane! }
}

t.test(
  'a write under way in a lane ends as it began when its ticket is replaced',
  { skip: slowfsAbsent() },
  async (t) => {
    const { table, answer, lane, slow, path, bytes } = await stuckWrite(t, 'replaced')
    table.handlers['image-retire']({ key: 1 })
    t.match((await answer)?.head, /^HTTP\/1.1 200/)
    slow.rules()
    t.equal((await lane.ended).received.length, 0, 'it was done once')
    t.equal(readFileSync(path).toString('latin1', 100 * BLOCK, 101 * BLOCK), bytes)
  },
)

t.test(
  'a write under way in a lane is told to who begins to listen, before it is answered',
  { skip: slowfsAbsent() },
  async (t) => {
    const { graph, answer, lane, slow, bytes } = await stuckWrite(t, 'listened')
    const told: number[] = []
    const listener = graph.node('disk').addDirtyListener((offset) => told.push(offset))
    t.equal(Number((await lane.ended).received.length) > bytes.length, true, 'it is done anew')
    slow.rules()
    t.match((await answer)?.head, /^HTTP\/1.1 200/)
    t.ok(told.includes(100 * BLOCK))
    listener[Symbol.dispose]()
  },
)

t.test(
  'a client whose write is stuck in a lane is cut off at the end',
  { skip: slowfsAbsent() },
  async (t) => {
    const { table, client, engine, answer, slow } = await stuckWrite(t, 'cut', 120_000)
    const closed = table.close()
    t.equal(await answer, undefined, 'there is no answer')
    t.ok(client.socket.readableEnded)
    t.equal(engine.oldest()?.op, 'write', 'which is stuck still')
    await slow.unmount()
    await closed
  },
)
