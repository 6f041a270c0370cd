// SPDX-License-Identifier: Apache-2.0
// The job: one image of VM memory from a source to a sink. What can be refused before anything moved is refused when it is
// prepared; a transfer that does not come to its end leaves nothing.

import { setMaxListeners } from 'node:events'
import { atMost } from '../common/deadline.js'
import type { JobReceipt, JobResult } from '../common/job-messages.js'
import { Cancelled, CommandError } from '../errors.js'
import type { BodyProgress, JobBody, JobControl } from '../iothread/jobs/body.js'
import type { TransferContext } from './context.js'
import { named, unlessCancelled } from './job-ends.js'
import type { Report, SinkSpec, TransferSpec } from './messages.js'
import { type OpenedSink, type PreparedSink, prepareSink } from './open-sink.js'
import { type PreparedSource, prepareSource } from './open-source.js'
import { Pace } from './pace.js'
import { SharedRamSink } from './shared-ram.js'
import type { Slots } from './slots.js'
import { Stats } from './stats.js'
import { WaitMeter } from './wait-meter.js'

/** Between two reports of the statistics, milliseconds. */
const REPORT_MS = 100
/** How long a transfer that failed waits for storage to let go, milliseconds. What is stuck is left to itself. */
const ABORT_MS = 1000

const NO_SOURCE = { image: undefined, identity: undefined, copies: false }

export class TransferJob implements JobBody {
  readonly #id: string
  readonly #spec: TransferSpec
  readonly #control: JobControl
  readonly #report: (report: Report) => void
  readonly #context: TransferContext
  readonly #stats: Stats
  readonly #pace: Pace
  #source: PreparedSource | undefined
  #sink: PreparedSink | undefined
  /** Told when there is one. */
  #sinkCame: () => void = () => {}
  #opened: OpenedSink | undefined
  #paused: Promise<void> | undefined
  #flushed: JobReceipt['flush'] = 'not-reached'
  /** What may go on by itself when the transfer has been given up. */
  readonly #left: Promise<unknown>[] = []
  /** The image is where it should be, and the source hears of it. Never changed back. */
  #applied = false

  constructor(
    id: string,
    spec: TransferSpec,
    slots: Slots,
    control: JobControl,
    report: (report: Report) => void,
  ) {
    this.#id = id
    this.#spec = spec
    this.#control = control
    this.#report = report
    this.#pace = new Pace(spec.bandwidth, control.signal)
    // As many listen as there are connections.
    setMaxListeners(0, control.signal)
    const meter = new WaitMeter()
    this.#stats = new Stats(meter)
    this.#context = {
      ...{ slots, meter, pace: this.#pace, tally: this.#stats, signal: control.signal },
      inFiles: new Set(spec.shared.map(({ block }) => block)),
      pausePoint: () => this.#pausePoint(),
      fdTaken: (fd) => report({ kind: 'fd-taken', fd }),
      warn: (text) => report({ kind: 'log', level: 'warn', fields: { job: id }, text }),
    }
  }

  async prepare(): Promise<void> {
    const { source, sink } = this.#spec
    try {
      this.#source = await prepareSource(source, this.#context)
      if (sink.kind !== 'later') await this.#prepareSink(sink)
    } catch (error) {
      await this.#source?.close()
      throw named(error)
    }
  }

  /** Where it goes, of a transfer that was started without. What is refused may be followed by another try. */
  async setSink(sink: SinkSpec): Promise<void> {
    if (this.#sink !== undefined) throw new CommandError('the transfer has its target')
    try {
      await this.#prepareSink(sink)
    } catch (error) {
      throw named(error)
    }
    this.#sinkCame()
  }

  async run(): Promise<void> {
    const reporting = setInterval(() => this.#tell(), REPORT_MS)
    try {
      await this.#unlessCancelled(this.#move())
      this.#stats.enter('flush')
      this.#control.phase('flush')
      this.#tell()
      await this.#unlessCancelled(this.#finish())
      this.#applied = true
      await this.#confirm()
      await atMost(this.#source?.close() ?? Promise.resolve(), ABORT_MS)
    } catch (error) {
      const aborted = this.#abort()
      this.#left.push(aborted)
      await atMost(aborted, ABORT_MS)
      throw this.#control.signal.aborted ? new Cancelled() : named(error)
    } finally {
      clearInterval(reporting)
      this.#stats.stop()
      this.#tell()
    }
  }

  /** Answers when what storage held up has come to its end, and nothing of a transfer that failed is left. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#left)
  }

  get applied(): boolean {
    return this.#applied
  }

  progress(): BodyProgress {
    return { ...this.#stats.progress(), busy: true, activelySynced: false }
  }

  receipt(): JobReceipt {
    const { head, normal, duplicate, phases } = this.#stats.report()
    const pageSize = head?.pageSize ?? 0
    return {
      copied: normal * pageSize,
      zeroed: 0,
      skipped: duplicate * pageSize,
      flush: this.#flushed,
      durations: { bulk: Math.round(phases.pages + phases.tail), flush: Math.round(phases.flush) },
    }
  }

  result(): JobResult | undefined {
    return this.#sink?.result?.()
  }

  setSpeed(bytesPerSecond: number): void {
    this.#pace.set(bytesPerSecond)
  }

  /** Nothing is pending: run() closed what was open. */
  async finalize(): Promise<void> {}

  async #move(): Promise<void> {
    const { shared, renames } = this.#spec
    const source = this.#source
    if (source === undefined) throw new Error('the transfer was not prepared')
    const sink = await this.#sinkGiven()
    // A peer that waits for a guest ends when it is called and gets none, and a QEMU trusts what it gets.
    if (sink.calls === true) await source.check()
    const opened = await sink.open()
    this.#opened = opened
    if (this.#control.signal.aborted) {
      // Too late for the one who cleaned up.
      await opened.sink.abort()
      throw new Cancelled()
    }
    this.#control.phase('bulk')
    const between = shared.length + renames.length > 0
    const options = { sink: opened.sink, shared, renames, context: this.#context }
    await source.run(between ? { ...opened, sink: new SharedRamSink(options) } : opened)
  }

  #prepareSink(spec: SinkSpec): Promise<void> {
    const preparing = this.#openSink(spec)
    this.#left.push(preparing.catch(() => undefined))
    return preparing
  }

  async #openSink(spec: SinkSpec): Promise<void> {
    const { shared, renames } = this.#spec
    const { image, identity, copies } = this.#source ?? NO_SOURCE
    const asItIs = copies && shared.length + renames.length === 0
    const prepared = await prepareSink(spec, { copies: asItIs, image, identity }, this.#context)
    this.#sink = prepared
    if (!this.#control.signal.aborted) return
    await prepared.giveUp()
    await prepared.drop()
    throw new Cancelled()
  }

  async #sinkGiven(): Promise<PreparedSink> {
    while (this.#sink === undefined) {
      if (this.#control.signal.aborted) throw new Cancelled()
      await new Promise<void>((resolve) => {
        this.#sinkCame = resolve
      })
    }
    return this.#sink
  }

  async #finish(): Promise<void> {
    const wanted = this.#sink?.flushes ?? true
    this.#flushed = 'failed'
    await this.#opened?.sink.finish()
    this.#flushed = wanted ? 'ok' : 'disabled'
  }

  /** What is safe stays so, whether the source hears of it or not. */
  async #confirm(): Promise<void> {
    await this.#source?.confirm().catch((error: unknown) => {
      this.#context.warn(`the source was not told that its memory is safe: ${String(error)}`)
    })
  }

  /** None of these waits for another: what hangs in one does not hold up the rest. */
  async #abort(): Promise<void> {
    const sink = this.#opened?.sink
    this.#sinkCame()
    await Promise.allSettled([
      this.#sink?.giveUp(),
      sink === undefined ? this.#sink?.drop() : sink.abort(),
      this.#source?.close(),
    ])
  }

  async #unlessCancelled(work: Promise<void>): Promise<void> {
    await unlessCancelled(this.#control.signal, work).finally(() =>
      this.#left.push(work.catch(() => undefined)),
    )
  }

  /** Several wait here together. */
  #pausePoint(): Promise<void> {
    if (!this.#control.pausing && !this.#control.signal.aborted) return Promise.resolve()
    this.#paused ??= this.#control.pausePoint().finally(() => {
      this.#paused = undefined
    })
    return this.#paused
  }

  #tell(): void {
    this.#report({ kind: 'memory-stats', id: this.#id, stats: this.#stats.report() })
  }
}
