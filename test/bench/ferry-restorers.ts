// SPDX-License-Identifier: Apache-2.0
// The daemon's ways of restoring a guest's memory: it sends what is in a file to a QEMU that comes in.

import { join } from 'node:path'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import { Probe } from '../helpers/probe.js'
import { settled } from './ferry-savers.js'
import type { MemoryFormat } from './memory-guest.js'
import type { Restorer } from './restorers.js'

/** @param channels  connections beside the first */
function sent(reads: MemoryFormat, channels: number): Restorer {
  const how =
    channels === 0 ? {} : { capabilities: ['multifd'], parameters: { 'multifd-channels': channels } }
  return {
    name: `blockferry, ${reads}${channels === 0 ? '' : `, multifd ${channels}`} over \`unix:\``,
    reads,
    can: () => true,
    restore: async ({ guest, file }) => {
      const directory = guest.options.folder
      await using daemon = await settled(directory)
      const target = `unix:${join(directory, 'ferry')}`
      const probe = await Probe.start(`${daemon.socket}1`)
      const incoming = await guest.incoming(target, how)
      const args = { source: file, target, 'multifd-channels': channels }
      const job = await MemoryJob.start(daemon.client, 'x-memory-restore', args)
      const [{ status, error, seconds }, failure] = await Promise.all([incoming.end(), job.ended()])
      if (status !== 'completed' || failure !== undefined)
        throw new Error(`load ${status}: ${error}; the job: ${failure}`)
      return { seconds, control: await probe.stop() }
    },
  }
}

export const ferryRestorers = {
  mapped: sent('mapped-ram', 0),
  mappedMultifd: sent('mapped-ram', 4),
  stream: sent('stream', 0),
} as const
