// SPDX-License-Identifier: Apache-2.0
// The files of control sockets: taken over only from nobody, removed only while ours.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { connectTo, listenUnix, passedDescriptors } from '../../daemon/sockets.js'
import { shortFolder } from '../helpers/short-folder.js'

const plain = { mode: 0o600, group: undefined }

/** Leaves a socket file behind whose owner was killed. */
function leaveStale(path: string): void {
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', script])
}

t.test('a socket is for its user alone unless told otherwise', async (t) => {
  const folder = shortFolder(t)
  const mine = await listenUnix({ path: `${folder}/a`, ...plain })
  const ours = await listenUnix({ path: `${folder}/b`, mode: 0o660, group: String(process.getgid?.()) })
  t.equal(statSync(`${folder}/a`).mode & 0o777, 0o600)
  t.equal(statSync(`${folder}/b`).mode & 0o777, 0o660)
  mine.remove()
  ours.remove()
})

t.test('a stale socket file is replaced', async (t) => {
  const path = `${shortFolder(t)}/s`
  leaveStale(path)
  t.ok(existsSync(path))
  const bound = await listenUnix({ path, ...plain })
  const client = await connectTo({ path })
  client.destroy()
  bound.remove()
})

t.test('a socket somebody listens on is left alone', async (t) => {
  const path = `${shortFolder(t)}/s`
  const first = await listenUnix({ path, ...plain })
  await t.rejects(listenUnix({ path, ...plain }), { message: `somebody listens on '${path}' already` })
  const client = await connectTo({ path })
  client.destroy()
  first.remove()
})

t.test('a regular file at the path is left alone', async (t) => {
  const path = `${shortFolder(t, { s: 'precious' })}/s`
  await t.rejects(listenUnix({ path, ...plain }), { message: `'${path}' is there and is not a socket` })
  t.equal(readFileSync(path, 'utf8'), 'precious')
})

t.test('a missing folder is named as what it is', async (t) => {
  const path = `${shortFolder(t)}/none/s`
  await t.rejects(listenUnix({ path, ...plain }), {
    message: `Failed to bind socket to ${path}: No such file or directory`,
  })
})

t.test('a path that does not fit into a socket address is refused', async (t) => {
  const path = `${shortFolder(t)}/${'x'.repeat(108)}`
  await t.rejects(listenUnix({ path, ...plain }), { message: `UNIX socket path '${path}' is too long` })
})

t.test('a group that does not exist is refused and leaves no socket', async (t) => {
  const path = `${shortFolder(t)}/s`
  await t.rejects(listenUnix({ path, mode: 0o660, group: 'no such group' }), {
    message: "there is no group 'no such group'",
  })
  t.notOk(existsSync(path))
})

t.test('the file is removed at the end', async (t) => {
  const path = `${shortFolder(t)}/s`
  const bound = await listenUnix({ path, ...plain })
  bound.remove()
  t.notOk(existsSync(path))
})

t.test('a file that took the place of ours is not removed', async (t) => {
  const path = `${shortFolder(t)}/s`
  const bound = await listenUnix({ path, ...plain })
  renameSync(path, `${path}.old`)
  writeFileSync(path, 'precious')
  bound.remove()
  t.equal(readFileSync(path, 'utf8'), 'precious')
})

t.test('sockets of the service manager count for the process they name only', async (t) => {
  t.same(passedDescriptors({ LISTEN_PID: '7', LISTEN_FDS: '2' }, 7), [3, 4])
  t.same(passedDescriptors({ LISTEN_PID: '8', LISTEN_FDS: '2' }, 7), [])
  t.same(passedDescriptors({ LISTEN_PID: '7', LISTEN_FDS: 'x' }, 7), [])
  t.same(passedDescriptors({}, 7), [])
})
