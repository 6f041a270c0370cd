// SPDX-License-Identifier: Apache-2.0
// The daemon's ways of saving a guest's memory: QEMU migrates to it. Time counts as for QEMU's own, until the job has
// concluded: the file is whole, flushed and has its name then.

import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import type { How } from '../helpers/migration/transfer.js'
import { Probe } from '../helpers/probe.js'
import type { SaveCost, Saver, SaveTask } from './savers.js'

/** A daemon that has made all it makes ahead. */
export async function settled(directory: string): Promise<Daemon> {
  const daemon = await Daemon.start({ directory })
  await daemon.settledDescriptors()
  return daemon
}

async function save(task: SaveTask, target: object, how: How, channels: number): Promise<SaveCost> {
  const { guest, downtimeLimit } = task
  const directory = guest.options.folder
  await using daemon = await settled(directory)
  const source = `unix:${join(directory, 'ferry')}`
  const args = { source, 'multifd-channels': channels, ...target }
  const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
  const probe = await Probe.start(`${daemon.socket}1`)
  const parameters = { 'downtime-limit': downtimeLimit, ...how.parameters }
  const now = (): number => performance.now()
  const concluded = job.ended().then((failure) => ({ failure, at: now() }))
  const migrated = guest.migrate(source, { ...how, parameters }).then((end) => ({ ...end, at: now() }))
  const [{ failure, at }, end] = await Promise.all([concluded, migrated])
  const { status, error, normal, mbps } = end
  // From the command, as QEMU's own.
  const seconds = end.seconds + Math.max(0, at - end.at) / 1000
  if (status !== 'completed' || failure !== undefined)
    throw new Error(`migration ${status}: ${error}; the job: ${failure}`)
  return { seconds, pages: normal, mbps, control: await probe.stop() }
}

/** @param channels  connections beside the first */
function mapped(channels: number): Saver {
  const how =
    channels === 0 ? {} : { capabilities: ['multifd'], parameters: { 'multifd-channels': channels } }
  return {
    name: `blockferry, mapped-ram${channels === 0 ? '' : `, multifd ${channels} over sockets`}`,
    writes: 'mapped-ram',
    can: () => true,
    save: async (task) => await save(task, { target: task.file, format: 'mapped-ram' }, how, channels),
  }
}

const thrownAway: Saver = {
  name: 'blockferry, null',
  can: () => true,
  save: async (task) => await save(task, { format: 'null' }, {}, 0),
}

export const ferrySavers = { plain: mapped(0), multifd: mapped(4), thrownAway } as const
