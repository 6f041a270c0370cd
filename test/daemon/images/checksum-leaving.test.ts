// SPDX-License-Identifier: Apache-2.0
// Clients that go away while a checksum is made for them: it ends, and its turn is the next one's.

import t from 'tap'
import { imageTable, type TestTable } from '../../helpers/images/image-table.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const SIZE = 128 * MiB
fill(scratch.file('data'), SIZE)

const CHECKSUM = 'GET /images/t/checksum HTTP/1.1\r\n\r\n'
const OPTIONS = 'OPTIONS /images/t HTTP/1.1\r\n\r\n'

async function when(state: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await state())) await new Promise(setImmediate)
}

const status = ({ table }: TestTable) => table.handlers['image-status']({ key: 1 })

t.test('a checksum ends soon after its client has gone', async (t) => {
  const test = await imageTable(t, scratch.file('data'), 16, { size: SIZE, ops: ['read'] })
  const client = await test.connect(CHECKSUM)
  await when(async () => (await status(test)).transferred > 0)
  client.socket.destroy()
  await when(async () => !(await status(test)).active)
  const { transferred, connections } = await status(test)
  t.ok(transferred < SIZE / 2, `${transferred} bytes were hashed`)
  t.equal(connections, 0)
  t.match(test.reports, [{ kind: 'image-left', why: 'the client went away' }])
})

t.test('a client that goes away while it waits for its turn leaves the line', async (t) => {
  const test = await imageTable(t, scratch.file('data'), 16, { size: SIZE, ops: ['read'] })
  const working = await Promise.all([1, 2, 3, 4].map(() => test.connect(CHECKSUM)))
  const waiting = await test.connect(CHECKSUM)
  await when(() => test.checksums.waiting === 1)
  waiting.socket.destroy()
  await when(() => test.checksums.waiting === 0)
  t.match(test.reports, [{ kind: 'image-left', connection: 4 }])
  for (const { socket } of working) socket.destroy()
  const last = await test.connect(CHECKSUM)
  t.match(await last.until((text) => text.endsWith('}')), /^HTTP\/1.1 200/, 'their turns were given back')
})

t.test('a client that has sent all of its requests and ends its half gets all replies', async (t) => {
  const test = await imageTable(t, scratch.file('data'), 16, { size: SIZE, ops: ['read'] })
  const client = await test.connect(`${CHECKSUM}${OPTIONS}`)
  client.socket.end()
  const text = await client.until((text) => /max_writers/.test(text))
  t.equal(text.match(/HTTP\/1.1 200/g)?.length, 2)
})
