// SPDX-License-Identifier: Apache-2.0
// Jobs whose start waits for a request of a guest that does not come back: they can be cancelled, and then nothing has changed.

import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { MiB, Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 4 * MiB

/** A disk that is served, on which the first write is stuck, and a target. */
async function stuckDisk(scratch: Scratch, daemon: Daemon): Promise<GuestClient> {
  const { client } = daemon
  const rules = [{ op: 'write', nth: 1, stall: true }]
  const memory = { driver: 'x-memory', size: SIZE }
  const disk = { driver: 'x-inject', 'node-name': 'disk', file: memory, rules }
  await client.execute('blockdev-add', disk)
  await client.execute('blockdev-add', { ...memory, 'node-name': 'target' })
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await client.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', writable: true })
  const guest = await GuestClient.connect(socket, 'disk')
  guest.write(0, Buffer.alloc(512, 1)).catch(() => undefined)
  await guest.read(4096, 512)
  return guest
}

type Cancel = 'job-cancel' | 'block-job-cancel'

/** As soon as there is something to be cancelled. */
async function cancel(client: QmpClient, command: Cancel, id: string): Promise<void> {
  const args = command === 'job-cancel' ? { id } : { device: id }
  for (let begun = false; !begun; ) {
    begun = await client.send(command, args).then(
      () => true,
      () => false,
    )
    await pace(5)
  }
}

for (const command of ['job-cancel', 'block-job-cancel'] as const)
  t.test(`a ${command} ends a backup whose start waits for a stuck write, and others go on`, async (t) => {
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const guest = await stuckDisk(scratch, daemon)
    const other = await daemon.connect()
    const backup = { 'job-id': 'b', device: 'disk', target: 'target', sync: 'full' }
    const starting = daemon.client.send('blockdev-backup', backup)
    await cancel(other, command, 'b')
    await t.rejects(starting, /Operation canceled/)
    t.equal((await guest.read(8192, 512)).length, 512)
    t.same(await other.execute('query-jobs', {}), [], 'there never was a job')
    await other.execute('blockdev-del', { 'node-name': 'target' })
  })
