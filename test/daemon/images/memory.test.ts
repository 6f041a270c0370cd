// SPDX-License-Identifier: Apache-2.0
// Requests that need memory when there is none: many checksums end, and who is stopped waits no more.

import t from 'tap'
import { type Piece, SMALL } from '../../../daemon/iothread/exports/piece-pool.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
fill(scratch.file('data'), 9 * MiB)

const CHECKSUM = 'GET /images/t/checksum?block_size=1048576 HTTP/1.1\r\nconnection: close\r\n\r\n'

t.test('more checksums than there is memory for end with the same sum', async (t) => {
  const { connect, checksums } = await imageTable(t, scratch.file('data'), 2, { size: 9 * MiB })
  const clients = []
  for (let count = 0; count < 60; count++) clients.push(await connect(CHECKSUM))
  while (checksums.waiting === 0) await new Promise((resolve) => setImmediate(resolve))
  const replies = await Promise.all(
    clients.map((client) => client.until((text) => /"checksum":"\w+"/.test(text))),
  )
  const sums = new Set(replies.map((text) => /"checksum":"(\w+)"/.exec(text)?.[1]))
  t.equal(sums.size, 1)
  t.equal(checksums.waiting, 0)
})

const waiting: readonly { readonly name: string; readonly text: string }[] = [
  { name: 'a checksum', text: CHECKSUM },
  { name: 'a GET', text: 'GET /images/t HTTP/1.1\r\n\r\n' },
  { name: 'a PUT', text: `PUT /images/t HTTP/1.1\r\ncontent-length: ${SMALL}\r\n\r\n` },
]

for (const { name, text } of waiting)
  t.test(`${name} that waits for memory is stopped with its ticket`, async (t) => {
    const { table, pool, connect } = await imageTable(t, scratch.file('data'), 2)
    // As by clients that take nothing, each with a piece.
    const held: Piece[] = []
    for (
      let piece = pool.take({ held: 0 }, SMALL);
      piece !== undefined;
      piece = pool.take({ held: 0 }, SMALL)
    )
      held.push(piece)
    const client = await connect(text)
    while (!(await table.handlers['image-status']({ key: 1 })).active)
      await new Promise((resolve) => setImmediate(resolve))
    await table.handlers['image-end']({ key: 1, stop: true })
    t.match(await client.until((got) => got.includes('canceled')), /^HTTP\/1.1 403/)
  })

t.test('a checksum that waits for its turn is stopped with its ticket', async (t) => {
  const { table, checksums, connect } = await imageTable(t, scratch.file('data'))
  const idle = { check: () => undefined, whenStopped: () => () => undefined }
  const turns = []
  for (let count = 0; count < 4; count++) turns.push(await checksums.take(idle))
  const client = await connect(CHECKSUM)
  while (checksums.waiting === 0) await new Promise((resolve) => setImmediate(resolve))
  await table.handlers['image-end']({ key: 1, stop: true })
  t.match(await client.until((got) => got.includes('canceled')), /^HTTP\/1.1 403/)
  t.equal(checksums.waiting, 0)
  for (const turn of turns) turn[Symbol.dispose]()
  const next = await checksums.take(idle)
  next[Symbol.dispose]()
})
