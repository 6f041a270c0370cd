// SPDX-License-Identifier: Apache-2.0
// The migration commands of QEMU.

import { type MigrationAddress, parseMigrationUri } from '../../../protocol/migration/uri.js'
import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { SinkSpec, SourceSpec } from '../../memory/messages.js'
import type { Handlers } from '../commands.js'
import type { Descriptors } from '../descriptors.js'
import type { Jobs } from '../jobs/jobs.js'
import type { MemoryWorkers } from '../memory-workers.js'
import type { Migration } from '../migration/migration.js'
import type { MigrationSettings } from '../migration/settings.js'
import { transferInfo } from '../migration/show.js'
import { Places } from './memory-specs.js'

/** Writes of a file under way at once where nobody says how many. */
const CHANNELS = 8
const MOST_CHANNELS = 32

type PlaceArguments = Pick<Arguments<'migrate'>, 'uri' | 'channels'>

export interface MigrateDeps {
  readonly migration: Migration
  readonly settings: MigrationSettings
  readonly descriptors: Descriptors
  readonly jobs: Jobs
  readonly workers: MemoryWorkers
}

export function migrateHandlers({ migration, settings, descriptors, jobs, workers }: MigrateDeps) {
  return {
    'migrate-incoming': async (args, call) => {
      const address = addressIn(args)
      const places = new Places(descriptors, call)
      try {
        await migration.open(sourceAt(address, settings, places), () => places.handOver())
      } catch (error) {
        places.drop()
        throw error
      }
    },
    migrate: async (args, call) => {
      const address = addressIn(args)
      if (migration.moves) throw busy()
      if (args.resume) throw new CommandError('Cannot resume if there is no paused migration')
      const places = new Places(descriptors, call)
      try {
        await migration.move(sinkAt(address, settings, places), () => places.handOver())
      } catch (error) {
        places.drop()
        throw error
      }
    },
    migrate_cancel: () => migration.cancel(),
    'query-migrate': ({ 'x-job-id': id }) => {
      if (id === undefined) return migration.info()
      const job = jobs.find(id)
      const stats = workers.statsOf(job.worker)
      if (!job.plan.type.startsWith('x-memory-')) throw new CommandError(`Job '${id}' does not move memory`)
      return transferInfo(job, stats)
    },
    'migrate-set-capabilities': ({ capabilities }) => {
      if (migration.moves) throw busy()
      settings.setCapabilities(capabilities)
    },
    'query-migrate-capabilities': () => settings.capabilities(),
    'migrate-set-parameters': (args) => {
      settings.setParameters(args)
      if (args['max-bandwidth'] !== undefined) migration.setSpeed(args['max-bandwidth'])
    },
    'query-migrate-parameters': () => settings.parameters,
  } satisfies Handlers
}

function busy(): CommandError {
  return new CommandError("There's a migration process in progress")
}

/** @throws CommandError */
function addressIn({ uri, channels = [] }: PlaceArguments): MigrationAddress {
  if (uri !== undefined) {
    const address = parseMigrationUri(uri)
    if (typeof address === 'string') throw new CommandError(address)
    return address
  }
  const [channel] = channels
  if (channel === undefined) throw new CommandError("need either 'uri' or 'channels' argument")
  if (channels.length > 1) throw new CommandError('Channel list has more than one entries')
  if (channel['channel-type'] !== 'main') throw new CommandError("Channel type 'cpr' is not supported")
  return channel.addr
}

/** @throws CommandError */
function sourceAt(address: MigrationAddress, settings: MigrationSettings, places: Places): SourceSpec {
  if (address.transport === 'file') {
    const file = places.file(address.filename, 'in')
    return { kind: 'file', file, offset: address.offset, direct: settings.parameters['direct-io'] }
  }
  return { kind: 'stream', channels: channelsTo(address, settings), from: places.endpointOf(address, true) }
}

/** @throws CommandError */
function sinkAt(address: MigrationAddress, settings: MigrationSettings, places: Places): SinkSpec {
  const mapped = settings.has('mapped-ram')
  const { 'multifd-channels': channels, 'direct-io': direct, 'x-flush': flush } = settings.parameters
  if (address.transport === 'file') {
    if (settings.has('multifd') && !mapped) throw singleChannel()
    return {
      kind: 'file',
      format: mapped ? 'mapped-ram' : 'stream',
      file: places.file(address.filename, 'out'),
      channels: settings.has('multifd') ? Math.min(channels, MOST_CHANNELS) : CHANNELS,
      ...{ offset: address.offset, direct, flush, domain: undefined, digests: false },
    }
  }
  if (mapped) throw new CommandError('Migration requires seekable transport (e.g. file)')
  return {
    kind: 'stream',
    to: places.endpointOf(address, false),
    channels: channelsTo(address, settings),
    zeroPages: false,
  }
}

/** Connections beside the first. @throws CommandError where there can be only one */
function channelsTo(address: MigrationAddress, settings: MigrationSettings): number {
  if (!settings.has('multifd')) return 0
  const many = address.transport === 'socket' && address.type !== 'fd'
  if (!many) throw singleChannel()
  return settings.parameters['multifd-channels']
}

function singleChannel(): CommandError {
  return new CommandError('Migration requires multi-channel URIs (e.g. tcp)')
}
