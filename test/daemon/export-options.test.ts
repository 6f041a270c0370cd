// SPDX-License-Identifier: Apache-2.0
// --nbd-server and --export: a daemon that serves a disk from its start on.

import { existsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { shortFolder } from '../helpers/short-folder.js'

t.test('a disk is served from the start, and the end takes the socket away', async (t) => {
  const folder = shortFolder(t)
  const disk = join(folder, 'disk')
  const socket = join(folder, 'nbd')
  writeFileSync(disk, '')
  truncateSync(disk, 1 << 20)
  const node = `driver=raw,node-name=d,file.driver=file,file.filename=${disk}`
  const server = `addr.type=unix,addr.path=${socket},max-connections=3`
  const daemon = await Daemon.start({
    directory: folder,
    args: ['--blockdev', node, '--nbd-server', server, '--export', 'nbd,id=e,node-name=d,writable=on'],
  })
  t.match(await daemon.client.execute('query-block-exports'), [
    { id: 'e', type: 'nbd', 'node-name': 'd', 'shutting-down': false },
  ])
  t.ok(existsSync(socket))
  await daemon[Symbol.asyncDispose]()
  t.notOk(existsSync(socket))
})

for (const { args, message } of [
  { args: ['--export', 'fuse'], message: "--export fuse: Parameter 'id' is missing" },
  { args: ['--export', 'nbd,id=e'], message: "--export nbd,id=e: Parameter 'node-name' is missing" },
  { args: ['--nbd-server', 'addr.type=unix'], message: "Parameter 'addr.path' is missing" },
]) {
  t.test(`${args.join(' ')} stops the start`, async (t) => {
    await t.rejects(Daemon.start({ directory: shortFolder(t), args }), {
      message: new RegExp(message.replace(/[.*]/g, '.')),
    })
  })
}
