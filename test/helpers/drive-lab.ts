// SPDX-License-Identifier: Apache-2.0
// A daemon with a disk `src`, served to a guest, that drive-mirrors named `j` copy. Used by tests of where users are after their end.

import { spawnSync } from 'node:child_process'
import type { Test } from 'tap'
import { Daemon } from './daemon.js'
import { newSeed, random } from './graph.js'
import { GuestClient } from './nbd/guest-client.js'
import type { QmpClient } from './qmp-client.js'
import { empty, MiB, rawNode, Scratch } from './scratch.js'
import { BLOCK, StampedDisk } from './stamped-disk.js'
import { pace } from './waiting.js'

export const SIZE = 16 * MiB

export interface Lab extends AsyncDisposable {
  readonly scratch: Scratch
  readonly client: QmpClient
  readonly socket: string
}

export async function lab(): Promise<Lab> {
  const scratch = new Scratch()
  const daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  const end = async () => {
    await daemon[Symbol.asyncDispose]()
    scratch[Symbol.dispose]()
  }
  return { scratch, client, socket, [Symbol.asyncDispose]: end }
}

export async function serve(client: QmpClient, node: string): Promise<void> {
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: 'e', name: 'disk', 'node-name': node, writable: true },
  })
}

export async function unserve(client: QmpClient): Promise<void> {
  await client.execute('block-export-del', { id: 'e', mode: 'hard' })
  await client.event('BLOCK_EXPORT_DELETED')
}

/** A disk of zeroes that is served. */
export async function served(): Promise<Lab> {
  const made = await lab()
  const { client, scratch } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('src', scratch.file('src')))
  await serve(client, 'src')
  return made
}

export async function mirror(client: QmpClient, target: string, more: object = {}): Promise<void> {
  client.events.length = 0
  await client.execute('drive-mirror', {
    ...{ 'job-id': 'j', device: 'src', target, sync: 'full', format: 'raw' },
    ...more,
  })
}

export async function servedNode(client: QmpClient): Promise<string | undefined> {
  const exports = (await client.execute('query-block-exports')) as { 'node-name': string }[]
  return exports[0]?.['node-name']
}

export async function nodes(client: QmpClient): Promise<Map<string, string>> {
  const list = (await client.execute('query-named-block-nodes')) as { 'node-name': string; file: string }[]
  return new Map(list.map((node) => [node['node-name'], node.file]))
}

/** @returns what the job's end says went wrong */
export async function complete(client: QmpClient): Promise<unknown> {
  await client.execute('job-complete', { id: 'j' })
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  await client.status('j', 'null')
  return data.error
}

/** Nodes that go with something are gone a moment later. */
export async function left(client: QmpClient, expected: readonly string[]): Promise<string[]> {
  for (let tries = 0; tries < 200; tries++) {
    const names = [...(await nodes(client)).keys()].filter((name) => !name.startsWith('#')).sort()
    if (names.join() === [...expected].sort().join()) return names
    await pace(10)
  }
  return [...(await nodes(client)).keys()]
}

/** A guest with several requests under way, over a connection of its own. */
export async function guestOn(t: Test, socket: string) {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const below = random(seed)
  const connection = await GuestClient.connect(socket, 'disk')
  const stamped = new StampedDisk(connection, SIZE / BLOCK, below)
  const running = stamped.run(4, 2, () => pace(below(3)))
  running.catch(() => undefined)
  /** It uses the disk for a while. */
  const goOn = async () => {
    const enough = stamped.requests + 100
    while (stamped.requests < enough && !stamped.stopped) await pace(5)
  }
  const stop = async () => {
    stamped.stop()
    await running
    await stamped.verify()
    connection.end()
  }
  return { stamped, running, goOn, stop }
}

export function compare(one: string, format: string, other: string, otherFormat: string): string {
  return spawnSync('qemu-img', ['compare', '-f', format, '-F', otherFormat, one, other], { encoding: 'utf8' })
    .stdout
}

export function check(t: Test, image: string): void {
  const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-f', 'qcow2', image], {
    encoding: 'utf8',
  })
  t.equal(status, 0, `${stdout}${stderr}`)
}
