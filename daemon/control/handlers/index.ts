// SPDX-License-Identifier: Apache-2.0
// All commands about nodes, jobs and objects, joined with what they share. Made once by the composition root, which
// adds the commands about sessions. Also ends everything in an orderly way.

import type { Logger } from 'pino'
import { atMost } from '../../common/deadline.js'
import { CommandError } from '../../errors.js'
import type { StartImagesWorker } from '../../images/handle.js'
import type { ListenSpec } from '../../images/messages.js'
import type { StartWorker } from '../../iothread/handle.js'
import type { StartMemoryWorker } from '../../memory/handle.js'
import type { StartNbdWorker } from '../../nbd/handle.js'
import { Budgets } from '../budgets.js'
import type { EventSink, Handlers } from '../commands.js'
import type { Descriptors } from '../descriptors.js'
import { Directory } from '../directory.js'
import { Exports } from '../exports/exports.js'
import { ImageNodes } from '../exports/image-nodes.js'
import { ImagesService } from '../exports/images-service.js'
import { NbdService } from '../exports/nbd-service.js'
import { Tickets } from '../exports/tickets.js'
import { Graphs } from '../graphs.js'
import { isJobReport, Jobs } from '../jobs/jobs.js'
import { MemoryWorkers } from '../memory-workers.js'
import { Migration } from '../migration/migration.js'
import { MigrationSettings } from '../migration/settings.js'
import { Objects } from '../objects.js'
import { SPARES, type SpareOptions } from '../spare-workers.js'
import { DiskWorkers } from '../workers.js'
import { backupHandlers } from './backup.js'
import { bitmapHandlers } from './bitmaps.js'
import { chainHandlers } from './chain.js'
import { CopyStarter } from './copy-starter.js'
import { imageHandlers } from './create.js'
import { descriptorHandlers } from './descriptors.js'
import { exportHandlers } from './exports.js'
import { idleNodeHandlers } from './idle-node.js'
import { inspectHandlers } from './inspect.js'
import { blockJobHandlers, jobHandlers } from './jobs.js'
import { memoryHandlers } from './memory.js'
import { migrateHandlers } from './migrate.js'
import { mirrorHandlers } from './mirror.js'
import { nodeHandlers } from './nodes.js'
import { objectHandlers } from './objects.js'
import { overlayHandlers } from './overlays.js'
import { queryHandlers } from './queries.js'
import { reopenHandlers } from './reopen.js'
import { transactionHandlers } from './transaction.js'

export interface HandlerDeps {
  readonly startWorker: StartWorker
  readonly startMemory: StartMemoryWorker
  readonly startNbd: StartNbdWorker
  readonly startImages: StartImagesWorker
  /** How many threads are kept for the next disk, and how long. */
  readonly spares?: SpareOptions
  readonly events: EventSink
  readonly descriptors: Descriptors
  readonly log: Logger
}

export interface CommandSet {
  readonly handlers: Handlers
  /** Serves images, or tickets, over HTTP. @throws CommandError */
  listenImages(spec: ListenSpec): Promise<void>
  /** Reads credentials again that may have been renewed. Never rejects. */
  reload(): Promise<void>
  /**
   * Refuses new work, cancels the jobs (their events are sent), closes the nodes, ends the workers.
   * @param deadlineMs  by when it answers, whatever is stuck
   */
  shutdown(deadlineMs: number): Promise<void>
}

/** Shares of the time: for jobs to end, then for workers to close their nodes. The rest is to tell of what is lost. */
const JOBS_SHARE = 0.5
const WORKERS_SHARE = 0.8

export function createHandlers(deps: HandlerDeps): CommandSet {
  const { startWorker, startMemory, startNbd, startImages, events, descriptors, log, spares = SPARES } = deps
  const objects = new Objects()
  const directory = new Directory({ descriptors, credentials: (id) => objects.credentials(id, 'client') })
  const budgets = new Budgets((id) => objects.bandwidth(id))
  const jobs = new Jobs(events, log, budgets)
  const workers = new DiskWorkers(
    startWorker,
    log,
    {
      report: (worker, report) => {
        if (isJobReport(report)) jobs.report(worker.handle, report)
        else if (report.kind === 'nodes') {
          graphs.report(worker, report)
          exports.nodesChanged()
        } else if (report.kind === 'graph') graphs.rearranged(report)
        else if (report.kind === 'export-left') exports.report(report)
        else if (report.kind === 'export-moved') exports.moved(report)
        else if (report.kind !== 'image-corrupted') tickets.report(report)
        else {
          const { node, text, offset, size, fatal } = report
          log.error({ node, offset, size }, `image is corrupt: ${text}`)
          events.emit('BLOCK_IMAGE_CORRUPTED', {
            ...{ device: '', 'node-name': node, msg: text, offset, ...(size > 0 && { size }), fatal },
          })
        }
      },
      lost: (worker, reason) => {
        jobs.workerEnded(worker.handle, reason)
        exports.lost(worker)
        graphs.lost(worker)
        for (const { id } of tickets.lost(worker)) events.emit('BLOCK_EXPORT_DELETED', { id })
      },
    },
    spares,
  )
  const memory = new MemoryWorkers(
    startMemory,
    log,
    {
      job: (handle, report) => jobs.report(handle, report),
      stats: (handle, stats) => migration.counted(handle, stats),
      lost: (handle, reason) => jobs.workerEnded(handle, reason),
    },
    { ...spares, limit: 1, fromStart: 0 },
  )
  const settings = new MigrationSettings()
  const migration = new Migration(jobs, memory, events, settings)
  const nbd: NbdService = new NbdService(startNbd, log, {
    chosen: (chosen) => exports.chosen(chosen),
    lost: () => undefined,
  })
  const exports: Exports = new Exports(directory, nbd, events, log, (node) => graphs.closeUnused([node]))
  const graphs = new Graphs(directory, workers, (id) => objects.limits(id), log)
  const copies = new CopyStarter(graphs, jobs, log)
  const images: ImagesService = new ImagesService(startImages, log, {
    question: (question) => tickets.answer(question),
    handed: (...connection) => tickets.handed(...connection),
  })
  const tickets: Tickets = new Tickets(graphs, new ImageNodes(graphs), images, log)

  const starting = {
    ...nodeHandlers(graphs),
    ...reopenHandlers(graphs, log),
    ...imageHandlers(graphs, jobs),
    ...idleNodeHandlers(graphs, jobs),
    ...mirrorHandlers(copies),
    ...backupHandlers(copies),
    ...chainHandlers(graphs, jobs),
    ...overlayHandlers(graphs),
    ...transactionHandlers(copies, jobs),
    ...inspectHandlers(graphs, jobs),
    ...bitmapHandlers(graphs),
    ...memoryHandlers(jobs, memory, descriptors),
    ...migrateHandlers({ migration, settings, descriptors, jobs, workers: memory }),
    ...exportHandlers({ exports, images, tickets }, directory, objects, events),
    ...objectHandlers(objects, directory, workers, budgets, () => nbd.rulesChanged()),
  }
  const lasting = {
    ...jobHandlers(jobs),
    ...blockJobHandlers(jobs),
    ...queryHandlers(directory, jobs),
    ...descriptorHandlers(descriptors),
  }

  let ending = false
  const refuseWhenEnding = () => {
    if (ending) throw new CommandError('the daemon is shutting down')
  }
  return {
    handlers: { ...guarded(starting, refuseWhenEnding), ...lasting },
    async listenImages(spec) {
      await images.listen(spec)
      if (spec.service === 'local' && spec.address.kind === 'unix') tickets.unixSocket = spec.address.path
      if (spec.removeMs !== undefined) tickets.removeMs = spec.removeMs
    },
    reload: () => images.reload(),
    async shutdown(deadlineMs) {
      ending = true
      const started = performance.now()
      await atMost(jobs.endAll(), deadlineMs * JOBS_SHARE)
      const rest = Math.max(0, deadlineMs - (performance.now() - started))
      const ends = [
        exports.shutdown(),
        images.end(),
        workers.endAll(rest * WORKERS_SHARE),
        memory.endAll(rest * WORKERS_SHARE),
      ]
      await atMost(Promise.all(ends), rest)
    },
  }
}

/** The same handlers with a check before each. */
function guarded<H extends Handlers>(handlers: H, check: () => void): H {
  const wrapped = Object.entries(handlers).map(([name, handler]) => {
    const run = handler as (...args: readonly unknown[]) => unknown
    return [
      name,
      (...args: readonly unknown[]) => {
        check()
        return run(...args)
      },
    ]
  })
  return Object.fromEntries(wrapped) as H
}
