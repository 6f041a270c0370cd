// SPDX-License-Identifier: Apache-2.0
// Extents of a file that has a hundred thousand of them: the list is sent while it is made, and no faster than it is read.

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import t from 'tap'
import type { IoEngine } from '../../../native/types.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { Scratch } from '../../helpers/scratch.js'

const EXTENTS = 100_000
const BLOCK = 4096
const SIZE = EXTENTS * BLOCK

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())

/** Every other block holds data. */
function fragment(path: string): void {
  const file = openSync(path, 'w')
  for (let block = 0; block < EXTENTS; block += 2) writeSync(file, 'x', block * BLOCK)
  ftruncateSync(file, SIZE)
  closeSync(file)
}

/** The bodies of chunks of a reply, one behind the other. */
function unchunked(text: string): string {
  let body = ''
  for (let at = 0; ; ) {
    const line = text.indexOf('\r\n', at)
    const length = Number.parseInt(text.slice(at, line), 16)
    if (length === 0) return body
    body += text.slice(line + 2, line + 2 + length)
    at = line + 2 + length + 2
  }
}

/** How many extents the engine has told of. */
function counting(engine: IoEngine): { readonly count: number } {
  const learned = { count: 0 }
  const ask = engine.extents.bind(engine)
  engine.extents = async (...args) => {
    const list = await ask(...args)
    if (typeof list !== 'number') learned.count += list.length / 3
    return list
  }
  return learned
}

/** Until the server waits for its clients: nothing is learned in as many turns as it could do much in. */
async function untilStalled(learned: { readonly count: number }): Promise<void> {
  for (let [turn, before] = [0, -1]; turn < 500; turn++) {
    if (learned.count !== before) turn = 0
    before = learned.count
    await new Promise((resolve) => setImmediate(resolve))
  }
}

t.test('a list of a hundred thousand extents is sent while it is made', async (t) => {
  fragment(scratch.file('disk'))
  const { engine, connect, table } = await imageTable(t, scratch.file('disk'), 16, { size: SIZE })
  const learned = counting(engine)
  const client = await connect('GET /images/t/extents HTTP/1.1\r\n\r\n')
  await untilStalled(learned)
  t.ok((await table.handlers['image-status']({ key: 1 })).active)
  t.ok(learned.count < EXTENTS / 4, `${learned.count} extents were learned for a client that reads nothing`)
  const head = await client.until((text) => text.includes('\r\n\r\n'))
  t.match(head, /^HTTP\/1.1 200 OK\r\n[\s\S]*transfer-encoding: chunked/)
  const text = await client.until((text) => text.endsWith('\r\n0\r\n\r\n'))
  const list = JSON.parse(unchunked(text.slice(text.indexOf('\r\n\r\n') + 4))) as unknown[]
  t.equal(list.length, EXTENTS)
  const wrong = list.findIndex((extent, index) => {
    const wanted = { start: index * BLOCK, length: BLOCK, zero: index % 2 === 1, hole: false }
    return JSON.stringify(extent) !== JSON.stringify(wanted)
  })
  t.equal(wrong, -1, 'each is where it is')
  t.ok(learned.count < EXTENTS + 2048, 'none is asked for again')
})

t.test('several who ask for the list at once, at different speeds, get all of it', async (t) => {
  const { connect } = await imageTable(t, scratch.file('disk'), 16, { size: SIZE })
  const clients = []
  for (let count = 0; count < 8; count++)
    clients.push(await connect('GET /images/t/extents HTTP/1.1\r\n\r\n'))
  const whole = (text: string) => text.endsWith('\r\n0\r\n\r\n')
  const [first, ...others] = clients
  const wanted = await first!.until(whole)
  const body = (text: string) => unchunked(text.slice(text.indexOf('\r\n\r\n') + 4))
  for (const text of await Promise.all(others.map((client) => client.until(whole))))
    t.equal(body(text) === body(wanted), true)
})
