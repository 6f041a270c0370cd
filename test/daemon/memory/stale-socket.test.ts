// SPDX-License-Identifier: Apache-2.0
// Socket files that are in the way of a listener.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { isListenedAt } from '../../../daemon/memory/stale-socket.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { spec, Worker } from './worker.js'

const HEAD = 'Num       RefCount Protocol Flags    Type St Inode Path\n'

function listening(path: string) {
  const from = { kind: 'listen', address: { kind: 'unix', path } } as const
  return spec({ kind: 'stream', channels: 0, from }, { kind: 'null' })
}

/** A socket's file whose process has ended without removing it. */
function leave(path: string): void {
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', script])
}

t.test('a socket that was left is replaced', async (t) => {
  const path = join(shortFolder(t), 'in.sock')
  leave(path)
  t.ok(existsSync(path))
  const worker = new Worker(t)
  await worker.start(listening(path))
  await worker.cancel()
  t.match((await worker.ended()).outcome, { kind: 'cancelled' })
  t.notOk(existsSync(path))
})

t.test('one that somebody listens at is refused, and he is not called', async (t) => {
  const path = join(shortFolder(t), 'in.sock')
  const server = createServer()
  let calls = 0
  server.on('connection', () => calls++)
  server.listen(path)
  await once(server, 'listening')
  t.teardown(() => server.close())
  await t.rejects(new Worker(t).start(listening(path)), { message: /Address already in use$/ })
  t.ok(existsSync(path))
  t.equal(calls, 0)
})

t.test('a file is left alone', async (t) => {
  const path = join(shortFolder(t), 'file')
  writeFileSync(path, 'somebody’s')
  await t.rejects(new Worker(t).start(listening(path)), { message: /Address already in use$/ })
  t.ok(existsSync(path))
})

t.test('the list tells who listens', async (t) => {
  const line = (flags: string, path: string) =>
    `${HEAD}0000000000000000: 00000002 00000000 ${flags} 0001 01 25 ${path}\n`
  t.ok(isListenedAt(line('00010000', '/run/a b.sock'), '/run/a b.sock'))
  t.notOk(isListenedAt(line('00000000', '/run/a.sock'), '/run/a.sock'), 'a connection')
  t.notOk(isListenedAt(line('00010000', '/run/b.sock'), '/run/a.sock'))
  t.ok(isListenedAt(line('00010000', 'a.sock'), '/run/a.sock'), 'bound by a name relative to somewhere')
  t.notOk(isListenedAt(line('00010000', '@a.sock'), '/run/@a.sock'), 'a name without a file')
  t.notOk(isListenedAt(`${HEAD}0000000000000000: 00000002 00000000 00010000 0001 01 25\n`, '/run/a'))
})
