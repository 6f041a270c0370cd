// SPDX-License-Identifier: Apache-2.0
// x-memory-save, x-memory-restore, x-memory-convert, x-memory-inspect: a job in a worker of its own.

import { CommandError } from '../../errors.js'
import type { MemoryHandle } from '../../memory/handle.js'
import type { InspectSpec, TransferSpec } from '../../memory/messages.js'
import type { CommandCall, Handlers } from '../commands.js'
import type { Descriptors } from '../descriptors.js'
import type { Jobs } from '../jobs/jobs.js'
import type { JobPlan } from '../jobs/plan.js'
import type { MemoryWorkers } from '../memory-workers.js'
import { fileSink, inspection, Places, renames, sharedRam } from './memory-specs.js'

type MemoryType = Extract<JobPlan['type'], `x-memory-${string}`>

export function memoryHandlers(jobs: Jobs, workers: MemoryWorkers, descriptors: Descriptors) {
  const start = async (
    id: string,
    type: MemoryType,
    call: CommandCall,
    build: (places: Places) => TransferSpec | InspectSpec,
  ) => {
    const reservation = jobs.reserve(id)
    const places = new Places(descriptors, call)
    let handle: MemoryHandle | undefined
    try {
      const spec = build(places)
      const worker = workers.start(places.handOver())
      handle = worker
      const plan = {
        type,
        speed: spec.kind === 'memory' ? spec.bandwidth : 0,
        copyMode: 'background',
        autoFinalize: true,
        autoDismiss: false,
      } as const
      await jobs.start(reservation, plan, spec, worker, () => void workers.end(worker))
    } catch (error) {
      places.drop()
      jobs.giveBack(reservation)
      if (handle !== undefined) void workers.end(handle)
      throw error
    }
  }
  return {
    'x-memory-save': async (args, call) => {
      const channels = args['multifd-channels'] ?? 0
      await start(args['job-id'], 'x-memory-save', call, (places) => ({
        kind: 'memory',
        source: { kind: 'stream', channels, from: places.endpoint(args.source, !(args.connect ?? false)) },
        sink: fileSink(args, places),
        bandwidth: args['max-bandwidth'] ?? 0,
        shared: sharedRam(args, places),
        renames: renames(args),
      }))
    },
    'x-memory-restore': async (args, call) => {
      const channels = args['multifd-channels'] ?? 0
      const direct = args['direct-io'] ?? 'unless-cached'
      const zeroPages = args['zero-pages'] ?? false
      await start(args['job-id'], 'x-memory-restore', call, (places) => ({
        kind: 'memory',
        source: { kind: 'file', file: places.file(args.source, 'in'), offset: args.offset ?? 0, direct },
        sink: { kind: 'stream', channels, zeroPages, to: places.endpoint(args.target, args.listen ?? false) },
        bandwidth: args['max-bandwidth'] ?? 0,
        shared: [],
        renames: renames(args),
      }))
    },
    'x-memory-convert': async (args, call) => {
      const direct = args['direct-io'] ?? true
      if (args.source === args.target) throw new CommandError('source and target are the same file')
      await start(args['job-id'], 'x-memory-convert', call, (places) => ({
        kind: 'memory',
        source: {
          kind: 'file',
          file: places.file(args.source, 'in'),
          offset: args['source-offset'] ?? 0,
          direct,
        },
        sink: fileSink(args, places),
        bandwidth: args['max-bandwidth'] ?? 0,
        shared: sharedRam(args, places),
        renames: renames(args),
      }))
    },
    'x-memory-inspect': async (args, call) => {
      await start(args['job-id'], 'x-memory-inspect', call, (places) => inspection(args, places))
    },
  } satisfies Handlers
}
