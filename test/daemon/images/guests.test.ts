// SPDX-License-Identifier: Apache-2.0
// Clients of images are guests of their disks: copies hear of their requests.

import t from 'tap'
import type { Judgement } from '../../../daemon/iothread/block/usual.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
fill(scratch.file('data'), MiB)

const PATCH = JSON.stringify({ op: 'zero', offset: 0, size: 4096, flush: true })
const PUT_HEAD = 'PUT /images/t HTTP/1.1\r\ncontent-length: 4096\r\n\r\n'
const requests = [
  { name: 'GET', text: 'GET /images/t HTTP/1.1\r\nrange: bytes=0-4095\r\n\r\n', felt: 1 },
  { name: 'PUT', text: `${PUT_HEAD}${'x'.repeat(4096)}`, felt: 2 },
  {
    name: 'PATCH',
    text: `PATCH /images/t HTTP/1.1\r\ncontent-length: ${PATCH.length}\r\n\r\n${PATCH}`,
    felt: 1,
  },
]

for (const { name, text, felt } of requests)
  t.test(`${name}: reads, writes and flushes beside a copy are felt`, async (t) => {
    const { graph, table, connect } = await imageTable(t, scratch.file('data'))
    const heard: Judgement[] = []
    const ask = async () => {
      const client = await connect(text)
      await client.until((got) => /^HTTP\/1.1 20[06]/.test(got))
    }
    t.notOk(graph.guests.active)
    await ask()
    using _listening = graph.guests.addListener((judged) => heard.push(judged))
    graph.guests.copying()
    await ask()
    graph.guests.copied()
    t.equal(heard.length, felt)
    await table.handlers['image-end']({ key: 1, stop: true })
    t.notOk(graph.guests.active, 'they went with the ticket')
  })
