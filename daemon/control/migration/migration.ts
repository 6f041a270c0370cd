// SPDX-License-Identifier: Apache-2.0
// The one migration that QEMU's commands speak of: migrate-incoming opens its source, migrate says where it goes. Between the
// two nothing is read, and the QEMU that sends waits. Work is done by a job in a memory worker; this keeps its state in
// QEMU's words and tells its events.
// Invariant: there is at most one, and its worker lives until it is over.

import type { Returns } from '../../../protocol/schema/index.js'
import type { MigrationStatus } from '../../../protocol/schema/migrate.js'
import { CommandError } from '../../errors.js'
import type { MemoryHandle } from '../../memory/handle.js'
import type { SinkSpec, SourceSpec, TransferStats } from '../../memory/messages.js'
import type { EventSink } from '../commands.js'
import type { Jobs } from '../jobs/jobs.js'
import type { MemoryWorkers } from '../memory-workers.js'
import type { MigrationSettings } from './settings.js'
import { migrationInfo, runningStatus } from './show.js'

/** Not a name users can give a job. */
const JOB = '#migrate'

/** Told of one report at most, the last ones: to a source that jumps about every page is a pass. */
const MOST_PASSES = 16

interface Under {
  readonly worker: MemoryHandle
  /** Its source is open, and its job can be found. */
  opened: boolean
  /** It was said where it goes. */
  moving: boolean
  passes: number
}

export class Migration {
  readonly #jobs: Jobs
  readonly #workers: MemoryWorkers
  readonly #events: EventSink
  readonly #settings: MigrationSettings
  #under: Under | undefined
  #status: MigrationStatus = 'none'
  #stats: TransferStats | undefined
  #error: string | undefined

  constructor(jobs: Jobs, workers: MemoryWorkers, events: EventSink, settings: MigrationSettings) {
    this.#jobs = jobs
    this.#workers = workers
    this.#events = events
    this.#settings = settings
  }

  get moves(): boolean {
    return this.#under?.moving ?? false
  }

  info(): Returns<'query-migrate'> {
    return this.#status === 'none' ? {} : migrationInfo(this.#status, this.#stats, this.#error)
  }

  /** Answers when the source is open: it listens, or the file is sound. @param handOver  gives the descriptors in `source` to the worker */
  async open(source: SourceSpec, handOver: () => readonly number[]): Promise<void> {
    if (this.#under !== undefined) throw new CommandError('The incoming migration has already been started')
    const reservation = this.#jobs.reserveOwn(JOB)
    const worker = this.#workers.start(handOver())
    const under: Under = { worker, opened: false, moving: false, passes: 0 }
    this.#under = under
    this.#stats = undefined
    this.#enter('setup')
    const plan = {
      type: 'x-migrate',
      speed: 0,
      copyMode: 'background',
      autoFinalize: true,
      autoDismiss: true,
    } as const
    const spec = {
      kind: 'memory',
      ...{ source, sink: { kind: 'later' }, bandwidth: 0, shared: [], renames: [] },
    } as const
    try {
      await this.#jobs.start(reservation, plan, spec, worker, () => this.#concluded(worker))
      under.opened = true
    } catch (error) {
      this.#jobs.giveBack(reservation)
      void this.#workers.end(worker)
      this.#over(this.#status === 'cancelling' ? 'cancelled' : 'failed', messageOf(error))
      throw error
    }
  }

  /** Answers when the target is known to be possible. A refused one leaves the source open for another try. */
  async move(sink: SinkSpec, handOver: () => readonly number[]): Promise<void> {
    const under = this.#under
    if (under === undefined)
      throw new CommandError('There is nothing to migrate: migrate-incoming says where it comes from')
    if (!under.opened) throw new CommandError('There is nothing to migrate yet: its source is being opened')
    under.moving = true
    this.#enter('setup')
    this.setSpeed(this.#settings.parameters['max-bandwidth'])
    this.#workers.lend(under.worker, handOver())
    try {
      await under.worker.request('set-sink', { sink })
    } catch (error) {
      // Cancelled, or lost with its worker: that is told by itself.
      if (this.#under !== under || this.#status === 'cancelling') throw error
      under.moving = false
      this.#error = messageOf(error)
      this.#enter('failed')
      throw error
    }
  }

  cancel(): void {
    const under = this.#under
    if (under === undefined || this.#status === 'cancelling') return
    this.#enter('cancelling')
    // A source that is being opened can hang; there is no job yet.
    if (under.opened) void this.#jobs.find(JOB).cancel(true)
    else void this.#workers.end(under.worker)
  }

  /** Bytes per second, 0 = no limit. */
  setSpeed(speed: number): void {
    if (this.moves) this.#jobs.find(JOB).setSpeed(Math.max(0, speed))
  }

  /** What the worker counted. */
  counted(worker: MemoryHandle, stats: TransferStats): void {
    const under = this.#under
    if (under?.worker !== worker) return
    this.#stats = stats
    if (stats.head === undefined) return
    const passes = Math.max(1, stats.passes)
    under.passes = Math.max(under.passes, passes - MOST_PASSES)
    while (under.passes < passes) this.#emitPass(++under.passes)
    const now = runningStatus(stats)
    if (this.#status === 'setup') this.#enter('active')
    if (this.#status === 'active' && now === 'device') this.#enter(now)
  }

  #concluded(worker: MemoryHandle): void {
    const { error, cancelled } = this.#jobs.find(JOB)
    void this.#workers.end(worker)
    if (error === undefined) this.#over('completed', undefined)
    else this.#over(cancelled ? 'cancelled' : 'failed', error)
  }

  #over(status: 'completed' | 'cancelled' | 'failed', error: string | undefined): void {
    this.#under = undefined
    this.#error = error
    this.#enter(status)
  }

  #enter(status: MigrationStatus): void {
    this.#status = status
    if (this.#settings.has('events')) this.#events.emit('MIGRATION', { status })
  }

  #emitPass(pass: number): void {
    if (this.#settings.has('events')) this.#events.emit('MIGRATION_PASS', { pass })
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
