// SPDX-License-Identifier: Apache-2.0
// Jobs that yield to the clients of an export: they get done, whatever the clients do, and what they copied is right.

import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { BLOCK, StampedDisk } from '../helpers/stamped-disk.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 64 * MiB

/** A disk that is served, a place to go, and the daemon. */
async function setUp(t: Test, scratch: Scratch): Promise<{ client: QmpClient; socket: string }> {
  const daemon = await Daemon.start({ directory: scratch.path })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  for (const name of ['d0', 'd1']) {
    empty(scratch.file(name), SIZE)
    await client.execute('blockdev-add', rawNode(name, scratch.file(name)))
  }
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: 'e', name: 'disk', 'node-name': 'd0', writable: true },
  })
  return { client, socket }
}

/** A guest that never rests and has written some of its disk. @param flushes  makes every write durable before it goes on */
async function restless(t: Test, socket: string, flushes: boolean) {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const connection = await GuestClient.connect(socket, 'disk')
  const disk = new StampedDisk(connection, SIZE / BLOCK, random(seed))
  const running = disk.run(flushes ? 1 : 8, 1, async () => {
    if (flushes) await connection.flush()
  })
  running.catch(() => undefined)
  while (disk.requests < 500 && !disk.stopped) await pace(5)
  const stop = async () => {
    disk.stop()
    await running
    await disk.verify()
    connection.end()
    t.comment(`${disk.requests} requests`)
  }
  return { running, stop }
}

const guests = [
  { name: 'one that makes every write durable', flushes: true, how: {} },
  { name: 'one that dirties as fast as it can', flushes: false, how: {} },
  { name: 'one whose writes wait for the target', flushes: false, how: { 'copy-mode': 'write-blocking' } },
  { name: 'one that nobody heeds', flushes: true, how: { 'x-yield': false } },
]
for (const { name, flushes, how } of guests)
  t.test(`a mirror gets ready and takes the disk over beside a guest: ${name}`, async (t) => {
    using scratch = new Scratch()
    const { client, socket } = await setUp(t, scratch)
    const guest = await restless(t, socket, flushes)
    await client.execute('blockdev-mirror', {
      ...{ 'job-id': 'j', device: 'd0', target: 'd1', sync: 'full' },
      ...how,
    })
    await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    await client.execute('job-complete', { id: 'j' })
    const { data } = await client.event('BLOCK_JOB_COMPLETED')
    t.equal(data.error, undefined)
    await client.status('j', 'null')
    await guest.stop()
  })

t.test('a mirror beside a guest is equal when the guest rests', async (t) => {
  using scratch = new Scratch()
  const { client, socket } = await setUp(t, scratch)
  const guest = await restless(t, socket, true)
  await client.execute('blockdev-mirror', { 'job-id': 'j', device: 'd0', target: 'd1', sync: 'full' })
  await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
  await guest.stop()
  await client.execute('job-cancel', { id: 'j' })
  await client.status('j', 'null')
  t.equal(difference(scratch.file('d0'), scratch.file('d1')), undefined)
})
