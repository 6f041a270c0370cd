// SPDX-License-Identifier: Apache-2.0
// What the benches of disks in use share: a daemon that serves a disk, its mirrors, and fio as the guest.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { blockferryd, type Program, storageDaemon } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { makeDense, makeTarget } from './images.js'
import type { BenchOptions } from './options.js'

/** Export name of the disk. */
export const DISK = 'disk'

/** A daemon that serves `d0` and has `d1`, of the same size, as a place to go. */
export class Served implements AsyncDisposable {
  readonly name: string
  readonly client: QmpClient
  /** Of the NBD server. */
  readonly socket: string
  readonly #daemon: Daemon
  readonly #folder: string

  private constructor(name: string, daemon: Daemon, folder: string) {
    this.name = name
    this.client = daemon.client
    this.socket = join(folder, 'nbd.sock')
    this.#daemon = daemon
    this.#folder = folder
  }

  static async start(name: string, program: Program, directory: string, size: number): Promise<Served> {
    const folder = mkdtempSync(join(directory, 's'))
    makeDense(join(folder, 'd0'), size)
    makeTarget(join(folder, 'd1'), size)
    const daemon = await Daemon.start({ directory: folder, program })
    const served = new Served(name, daemon, folder)
    const { client } = daemon
    for (const node of ['d0', 'd1']) await client.execute('blockdev-add', disk(node, join(folder, node)))
    const addr = { type: 'unix', data: { path: served.socket } }
    await client.execute('nbd-server-start', { addr })
    await client.execute('block-export-add', {
      ...{ type: 'nbd', id: 'e', name: DISK, 'node-name': 'd0', writable: true },
    })
    return served
  }

  get uri(): string {
    return `nbd+unix:///${DISK}?socket=${this.socket}`
  }

  async mirror(from: string, to: string, more: object = {}): Promise<void> {
    this.client.events.length = 0
    await this.client.execute('blockdev-mirror', {
      ...{ 'job-id': 'j', device: from, target: to, sync: 'full' },
      ...more,
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon[Symbol.asyncDispose]()
    rmSync(this.#folder, { recursive: true })
  }
}

function disk(name: string, filename: string): object {
  const file = { driver: 'file', filename, aio: 'io_uring', cache: { direct: true }, discard: 'unmap' }
  return { driver: 'raw', 'node-name': name, discard: 'unmap', file }
}

/** Ours first. */
export function daemons(
  options: BenchOptions,
): readonly { readonly name: string; readonly program: Program }[] {
  return [
    { name: 'blockferryd', program: blockferryd },
    { name: 'qemu-storage-daemon', program: storageDaemon(options.qemu10) },
  ]
}

/** What fio measured, milliseconds and requests a second. */
export interface GuestTimes {
  readonly write99: number
  readonly flush99: number
  readonly perSecond: number
}

/** A guest that writes at random places. @param more  fio's options */
export async function fio(uri: string, size: number, more: readonly string[]): Promise<GuestTimes> {
  const args = ['--name=guest', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', `--size=${size}`]
  const child = spawn('fio', [...args, '--norandommap', '--output-format=json', ...more], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [text, said] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    said += part
  })
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve))
  if (status !== 0) throw new Error(`fio: ${said}`)
  const { write, sync } = JSON.parse(text.slice(text.indexOf('{'))).jobs[0]
  const p99 = (times: { percentile?: Record<string, number> }) => (times.percentile?.['99.000000'] ?? 0) / 1e6
  return { write99: p99(write.clat_ns), flush99: p99(sync.lat_ns), perSecond: write.iops }
}
