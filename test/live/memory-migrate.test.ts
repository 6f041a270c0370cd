// SPDX-License-Identifier: Apache-2.0
// migrate-incoming and migrate of the daemon between real QEMUs: it stands between two of them, or between one and a file, and
// is steered with the words that steer them.

import { existsSync } from 'node:fs'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import type { QemuVersion } from '../helpers/migration/qemu-system.js'
import { goesOn, qemu, stopped, ticking, waiting } from '../helpers/migration/tiny-guest.js'
import { isRecord, type QmpClient } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'

t.setTimeout(300_000)

const MACHINE = 'pc-q35-7.2'
const BOTH: readonly QemuVersion[] = ['7.2', '10']

async function on(client: QmpClient, ...capabilities: readonly string[]): Promise<void> {
  const all = ['events', ...capabilities].map((capability) => ({ capability, state: true }))
  await client.execute('migrate-set-capabilities', { capabilities: all })
}

/** @returns the status at the end */
async function ended(client: QmpClient): Promise<unknown> {
  const over = ['completed', 'failed', 'cancelled']
  const { data } = await client.event('MIGRATION', ({ status }) => over.includes(String(status)))
  return data.status
}

for (const version of BOTH) {
  const skip = qemu[version].absent

  for (const channels of [0, 2]) {
    const multifd = channels > 0 ? ['multifd'] : []
    const how = {
      capabilities: multifd,
      parameters: channels > 0 ? { 'multifd-channels': channels } : {},
    }
    const over = channels > 0 ? `${channels} channels` : 'one connection'

    t.test(`passes a guest of QEMU ${version} on to another over ${over}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      const { client } = daemon
      await using source = await stopped(scratch, version, MACHINE)
      await using destination = await waiting(scratch, version, MACHINE)
      const [from, to] = [`unix:${scratch.file('from')}`, `unix:${scratch.file('to')}`]
      await on(client, ...multifd)
      await client.execute('migrate-set-parameters', { 'multifd-channels': Math.max(1, channels) })
      await client.execute('migrate-incoming', { uri: from })
      const incoming = await destination.incoming(to, how)
      await client.execute('migrate', { uri: to })
      t.match(await source.migrate(from, how), { status: 'completed' })
      t.match(await incoming.end(), { status: 'completed' })
      t.equal(await ended(client), 'completed')
      t.match(await client.execute('query-migrate'), { status: 'completed', ram: { remaining: 0 } })
      t.equal(await goesOn(destination, source.serial()), undefined)
      t.equal(await daemon.stop(), undefined)
    })

    t.test(`keeps a guest of QEMU ${version} in a file, over ${over}`, { skip }, async (t) => {
      using scratch = new Scratch()
      await using daemon = await Daemon.start({ directory: scratch.path })
      const { client } = daemon
      await using source = await ticking(scratch, version, MACHINE)
      const [from, to] = [`tcp:127.0.0.1:0`, `unix:${scratch.file('to')}`]
      const file = `file:${scratch.file('mapped')},offset=0x1000`
      await on(client, 'mapped-ram', ...multifd)
      await client.execute('migrate-set-parameters', {
        ...{ 'multifd-channels': Math.max(1, channels), 'direct-io': true },
      })
      await client.execute('migrate-incoming', { uri: from })
      const uri = await listeningAt(client)
      await client.execute('migrate', { uri: file })
      t.match(await source.migrate(uri, how), { status: 'completed' })
      t.equal(await ended(client), 'completed')

      await client.execute('migrate-incoming', { uri: file })
      await client.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'mapped-ram', state: false }],
      })
      await using destination = await waiting(scratch, version, MACHINE)
      const incoming = await destination.incoming(to, how)
      await client.execute('migrate', { uri: to })
      t.match(await incoming.end(), { status: 'completed' })
      t.equal(await ended(client), 'completed')
      t.equal(await goesOn(destination, source.serial()), undefined)
      t.equal(await daemon.stop(), undefined)
    })
  }

  t.test(`a guest of QEMU ${version} goes on when its migration is cancelled here`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await using source = await ticking(scratch, version, MACHINE)
    const from = `unix:${scratch.file('from')}`
    await on(client, 'mapped-ram')
    await client.execute('migrate-incoming', { uri: from })
    // Nobody said yet where it goes: QEMU waits.
    const end = source.migrate(from, { parameters: { 'max-bandwidth': 65536 } })
    end.catch(() => undefined)
    await client.execute('migrate', { uri: `file:${scratch.file('saved')}` })
    await client.event('MIGRATION', ({ status }) => status === 'active')
    await client.execute('migrate_cancel')
    t.equal(await ended(client), 'cancelled')
    t.match(await end, { status: 'failed' })
    t.equal(await goesOn(source, ''), undefined)
    t.notOk(existsSync(scratch.file('saved')))
    // And again, to the end.
    await client.execute('migrate-incoming', { uri: from })
    await client.execute('migrate', { uri: `file:${scratch.file('saved')}` })
    t.match(await source.migrate(from), { status: 'completed' })
    t.equal(await ended(client), 'completed')
    t.ok(existsSync(scratch.file('saved')))
    t.equal(await daemon.stop(), undefined)
  })
}

/** The URI of what migrate-incoming opened. */
async function listeningAt(client: QmpClient): Promise<string> {
  for (;;) {
    const info = await client.execute('query-migrate')
    const [address] = isRecord(info) && Array.isArray(info['socket-address']) ? info['socket-address'] : []
    if (isRecord(address)) return `tcp:127.0.0.1:${address.port}`
  }
}
