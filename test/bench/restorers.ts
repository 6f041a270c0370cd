// SPDX-License-Identifier: Apache-2.0
// Who restores a guest's memory: each way of QEMU's own. Time counts from the command until the guest could run.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Guest } from '../helpers/migration/guest.js'
import type { QemuSystem } from '../helpers/migration/qemu-system.js'
import type { How, LoadEnd } from '../helpers/migration/transfer.js'
import type { ProbeResult } from '../helpers/probe.js'
import { installed } from '../helpers/program.js'
import { ferryRestorers } from './ferry-restorers.js'
import type { MemoryFormat } from './memory-guest.js'

export interface RestoreTask {
  /** Waits for a migration; its monitor is being watched. */
  readonly guest: Guest
  /** Of the format that the restorer reads; in the page cache or not, as the bench wants it. */
  readonly file: string
}

export interface RestoreCost {
  /** From the command until the guest could run. */
  readonly seconds: number
  /** Of the restorer's own control socket, if it has one. */
  readonly control?: ProbeResult
}

export interface Restorer {
  readonly name: string
  readonly reads: MemoryFormat
  /** QEMU reads the file itself. */
  readonly own?: boolean
  /** Whether it can restore guests of this QEMU, here. */
  can(qemu: QemuSystem): boolean
  restore(task: RestoreTask): Promise<RestoreCost>
}

function completed({ status, error, seconds }: LoadEnd): RestoreCost {
  if (status !== 'completed') throw new Error(`load ${status}: ${error}`)
  return { seconds }
}

function byFile(name: string, reads: MemoryFormat, how: How): Restorer {
  return {
    name,
    reads,
    own: true,
    can: ({ version }) => version === '10',
    restore: async ({ guest, file }) => completed(await guest.load(`file:${file}`, how)),
  }
}

function channels(count: number, direct: boolean): Restorer {
  const parameters = { 'multifd-channels': count, 'direct-io': direct }
  const how = { capabilities: ['mapped-ram', 'multifd'], parameters }
  return byFile(`mapped-ram, multifd ${count}${direct ? ', direct-io' : ''}`, 'mapped-ram', how)
}

const command: Restorer = {
  name: 'plain, `exec:cat`',
  reads: 'stream',
  own: true,
  can: ({ version }) => version === '7.2',
  restore: async ({ guest, file }) => completed(await guest.load(`exec:cat ${file}`)),
}

/** A simple sender, which reads and writes 1 MiB at a time. */
const sent: Restorer = {
  name: 'plain, fed over `unix:`',
  reads: 'stream',
  can: () => installed('socat', '-V'),
  restore: async ({ guest, file }) => {
    const socket = join(guest.options.folder, 'feed')
    const incoming = await guest.incoming(`unix:${socket}`)
    const args = ['-u', '-b', String(2 ** 20), `OPEN:${file},rdonly`, `UNIX-CONNECT:${socket}`]
    const child = spawn('socat', args, { stdio: 'ignore' })
    const ended = once(child, 'exit')
    try {
      return completed(await incoming.end())
    } finally {
      child.kill('SIGKILL')
      await ended
    }
  },
}

/** The peer's ways, and ours. */
export const restorers: readonly Restorer[] = [
  byFile('plain, `file:`', 'stream', {}),
  command,
  sent,
  byFile('mapped-ram', 'mapped-ram', { capabilities: ['mapped-ram'] }),
  channels(4, false),
  channels(4, true),
  channels(8, false),
  channels(8, true),
  ferryRestorers.mapped,
  ferryRestorers.mappedMultifd,
  ferryRestorers.stream,
]
