// SPDX-License-Identifier: Apache-2.0
// Who saves a guest's memory: each way of QEMU's own. Time counts from the command until the file is whole and on the disk:
// QEMU never flushes, so our fdatasync is added.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Guest } from '../helpers/migration/guest.js'
import type { QemuSystem } from '../helpers/migration/qemu-system.js'
import type { How, MigrationEnd } from '../helpers/migration/transfer.js'
import type { ProbeResult } from '../helpers/probe.js'
import { installed } from '../helpers/program.js'
import { ferrySavers } from './ferry-savers.js'
import type { MemoryFormat } from './memory-guest.js'

export interface SaveTask {
  /** Stopped; its monitor is being watched. */
  readonly guest: Guest
  /** To be written; not there, and nothing of an earlier one is in the page cache. */
  readonly file: string
  /** Milliseconds; to be given to QEMU. */
  readonly downtimeLimit: number
}

export interface SaveCost {
  /** From the command until the file is whole and flushed, or the last byte has been thrown away. */
  readonly seconds: number
  /** Flushing, as far as it is part of these seconds and known. */
  readonly flushSeconds?: number
  /** Pages with data that were saved. */
  readonly pages: number
  /** What QEMU reports, megabits a second. */
  readonly mbps?: number
  /** Of the saver's own control socket, if it has one. */
  readonly control?: ProbeResult
}

export interface Saver {
  readonly name: string
  /** What its file is, for reading it again afterwards; nothing when it keeps none. */
  readonly writes?: MemoryFormat
  /** Of QEMU's own ways one of the fastest, which ours are held against. */
  readonly fastest?: boolean
  /** Whether it can save guests of this QEMU, here. */
  can(qemu: QemuSystem): boolean
  save(task: SaveTask): Promise<SaveCost>
}

function how({ downtimeLimit }: SaveTask, { capabilities = [], parameters = {} }: How): How {
  return { capabilities, parameters: { 'downtime-limit': downtimeLimit, ...parameters } }
}

function completed(end: MigrationEnd): MigrationEnd {
  if (end.status !== 'completed') throw new Error(`migration ${end.status}: ${end.error}`)
  return end
}

async function flushed(file: string, { seconds, normal, mbps }: MigrationEnd): Promise<SaveCost> {
  const begun = performance.now()
  const handle = await open(file, 'r+')
  try {
    await handle.datasync()
  } finally {
    await handle.close()
  }
  const flushSeconds = (performance.now() - begun) / 1000
  return { seconds: seconds + flushSeconds, flushSeconds, pages: normal, mbps }
}

const stream: Saver = {
  name: 'plain, `file:`',
  writes: 'stream',
  can: ({ version }) => version === '10',
  save: async (task) =>
    await flushed(task.file, completed(await task.guest.migrate(`file:${task.file}`, how(task, {})))),
}

/** How a QEMU without `file:` writes one. */
const command: Saver = {
  name: 'plain, `exec:cat`',
  writes: 'stream',
  can: ({ version }) => version === '7.2',
  save: async (task) =>
    await flushed(task.file, completed(await task.guest.migrate(`exec:cat > ${task.file}`, how(task, {})))),
}

function mapped(name: string, more: How = {}): Saver {
  const capabilities = ['mapped-ram', ...(more.capabilities ?? [])]
  return {
    name: `mapped-ram${name}`,
    writes: 'mapped-ram',
    can: ({ version }) => version === '10',
    save: async (task) => {
      const uri = `file:${task.file}`
      return await flushed(
        task.file,
        completed(await task.guest.migrate(uri, how(task, { ...more, capabilities }))),
      )
    },
  }
}

function channels(count: number, direct: boolean): Saver {
  const name = `, multifd ${count}${direct ? ', direct-io' : ''}`
  const parameters = { 'multifd-channels': count, 'direct-io': direct }
  return { ...mapped(name, { capabilities: ['multifd'], parameters }), fastest: direct }
}

/** What QEMU can do when nobody has to write anything: the most that a receiver of its stream can reach. */
const thrownAway: Saver = {
  name: 'plain to `unix:`, thrown away',
  can: () => installed('socat', '-V'),
  save: async (task) => {
    const socket = join(task.guest.options.folder, 'away')
    await using _reader = await discard(socket)
    const { seconds, normal, mbps } = completed(await task.guest.migrate(`unix:${socket}`, how(task, {})))
    return { seconds, pages: normal, mbps }
  },
}

/** A reader that keeps nothing, listening; ended with its scope. */
export async function discard(socket: string): Promise<AsyncDisposable> {
  const address = `UNIX-LISTEN:${socket},unlink-early`
  const args = ['-d', '-d', '-u', '-b', String(2 ** 20), address, 'OPEN:/dev/null']
  const child: ChildProcess = spawn('socat', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  const ended = once(child, 'exit')
  const listening = new Promise<void>((resolve) => {
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (text.includes('listening on')) resolve()
    })
  })
  const early = ended.then(([status]): never => {
    throw new Error(`socat ended with ${status}`)
  })
  early.catch(() => undefined)
  await Promise.race([listening, early])
  return {
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL')
      await ended
      rmSync(socket, { force: true })
    },
  }
}

/** The peer's ways, and ours. */
export const savers: readonly Saver[] = [
  stream,
  command,
  mapped(''),
  channels(4, false),
  channels(4, true),
  channels(8, false),
  channels(8, true),
  thrownAway,
  ferrySavers.plain,
  ferrySavers.multifd,
  ferrySavers.thrownAway,
]
