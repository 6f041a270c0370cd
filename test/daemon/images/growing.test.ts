// SPDX-License-Identifier: Apache-2.0
// Files that uploads make longer: up to what came, never shorter, and under whatever name they are known.

import {
  appendFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

t.test('a file grows to what is written inside the ticket, and no further', async (t) => {
  writeFileSync(scratch.file('short'), '')
  await daemon.ticket('short', 'short', MiB + 512)
  const put = await daemon.images('PUT', 'short', { 'content-range': 'bytes 1000-*/*' }, 'end')
  t.equal(put.status, 200)
  t.equal(statSync(scratch.file('short')).size, 1003)
  const zero = await daemon.images(
    'PATCH',
    'short',
    {},
    `{"op":"zero","offset":4096,"size":${MiB + 512 - 4096}}`,
  )
  t.equal(zero.status, 200)
  t.equal(statSync(scratch.file('short')).size, MiB + 512)
  t.equal((await daemon.images('GET', 'short')).bytes.length, MiB + 512)
})

t.test('a file grows to what came, not to what was announced', async (t) => {
  writeFileSync(scratch.file('early'), '')
  await daemon.ticket('early', 'early', 4 * MiB)
  using client = new RawConnection(daemon.local)
  client.send(`PUT /images/early HTTP/1.1\r\ncontent-length: ${4 * MiB}\r\n\r\n`)
  client.send(Buffer.alloc(2 * MiB + 5, 3))
  client.socket.end()
  t.match(await client.closed(), /^HTTP\/1.1 400/)
  t.equal(statSync(scratch.file('early')).size, 2 * MiB + 5)
  t.ok(readFileSync(scratch.file('early')).every((byte) => byte === 3))
})

t.test('a file that somebody else made longer is not cut', async (t) => {
  for (const ticket of ['put', 'zero']) {
    writeFileSync(scratch.file('longer'), '')
    await daemon.ticket(ticket, 'longer', 4 * MiB)
    t.equal((await daemon.images('PUT', ticket, {}, 'a')).status, 200)
    appendFileSync(scratch.file('longer'), 'b'.repeat(9999))
    const { status } =
      ticket === 'put'
        ? await daemon.images('PUT', ticket, { 'content-range': 'bytes 1-*/*' }, 'cd')
        : await daemon.images('PATCH', ticket, {}, '{"op":"zero","offset":1,"size":2}')
    t.equal(status, 200)
    await daemon.tickets('DELETE', ticket)
    const after = ticket === 'put' ? 'cd' : '\0\0'
    t.equal(readFileSync(scratch.file('longer'), 'latin1'), `a${after}${'b'.repeat(9997)}`)
  }
})

t.test('a path that leads to another file by now is that file', async (t) => {
  writeFileSync(scratch.file('path'), '')
  await daemon.ticket('before', 'path', MiB)
  t.equal((await daemon.images('PUT', 'before', {}, 'before')).status, 200)
  writeFileSync(scratch.file('fresh'), '')
  renameSync(scratch.file('fresh'), scratch.file('path'))
  await daemon.ticket('after', 'path', MiB)
  t.equal((await daemon.images('PUT', 'after', {}, 'after')).status, 200)
  t.equal(readFileSync(scratch.file('path'), 'latin1'), 'after')
  t.equal((await daemon.images('GET', 'before')).bytes.toString(), 'before')
})

t.test('tickets whose URLs name one file in different ways share it', async (t) => {
  writeFileSync(scratch.file('one'), '')
  mkdirSync(scratch.file('folder'))
  linkSync(scratch.file('one'), scratch.file('hard'))
  symlinkSync(scratch.file('one'), scratch.file('soft'))
  const names = ['one', 'folder/../one', './one', 'hard', 'soft']
  for (const [index, name] of names.entries()) await daemon.ticket(`one${index}`, name, names.length * MiB)
  // All of them are opened at once.
  const opened = names.map((_, index) => daemon.images('OPTIONS', `one${index}`))
  t.strictSame(new Set((await Promise.all(opened)).map(({ status }) => status)), new Set([200]))
  for (const index of names.keys()) {
    const range = { 'content-range': `bytes ${index * MiB}-*/*` }
    t.equal((await daemon.images('PUT', `one${index}`, range, Buffer.alloc(MiB, index + 1))).status, 200)
  }
  for (const [index] of names.entries()) {
    const extents = JSON.parse((await daemon.images('GET', `one${index}/extents`)).text)
    t.strictSame(extents, [{ start: 0, length: names.length * MiB, zero: false, hole: false }])
  }
  const client = await QmpClient.connect(scratch.file('qmp'))
  const nodes = (await client.execute('query-named-block-nodes')) as { file: string }[]
  const files = nodes.filter(({ file }) => names.some((name) => file === scratch.file(name)))
  client.close()
  t.equal(files.length, 1)
  for (const [index] of names.entries()) t.equal((await daemon.tickets('DELETE', `one${index}`)).status, 204)
})
