// SPDX-License-Identifier: Apache-2.0
// Mirror: makes the target equal to the source and keeps it so until somebody asks to complete. The work is the copy
// engine's; this file decides what is dirty at the start, when the job is ready, and what success takes.
//
// Success means: every range accounted for, the target flushed without an error, nothing dirty since. To see that, the
// source's users are held up at the end. Completed by a pivot, the target takes the source's place for them.

import { type GiveBack, giveBack } from '../../common/give-back.js'
import type { CopyMode, JobReceipt } from '../../common/job-messages.js'
import type { BitmapUse } from '../block/bitmaps/bitmap-use.js'
import type { Claim } from '../block/claims.js'
import { DirtyBitmap } from '../block/dirty-bitmap.js'
import { granularityFor, piecesFor } from '../block/granularity.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { WriteAccess } from '../block/write-access.js'
import type { Buffers } from '../copy/buffers.js'
import { ConvergenceWatch } from '../copy/convergence-watch.js'
import { Courtesy } from '../copy/courtesy.js'
import { CopyEngine } from '../copy/engine.js'
import type { CopyControl } from '../copy/pace.js'
import { RateLimit } from '../copy/rate-limit.js'
import { WriteThrough } from '../copy/write-through.js'
import type { MirrorSpec } from '../messages.js'
import type { BodyProgress, JobBody, JobControl } from './body.js'
import { copyControl } from './copy-control.js'
import { layersTo } from './holdings.js'
import { claimEnds, mirrorHoldings } from './mirror-ends.js'
import { MirrorUsers } from './mirror-users.js'
import { checkLength, equalizeLength, lengthen } from './same-length.js'
import { takeBitmap } from './source-bitmap.js'
import { Stopwatch } from './stopwatch.js'
import { TargetFlush } from './target-flush.js'

const DEFAULT_BUFFER = 16 * 2 ** 20
/** Bytes that are copied while the source's users wait, at most: a moment at the speed of a disk. */
const LAST_BYTES = 16 * 2 ** 20
/** Flushes of the first pass: whoever writes all the time leaves something dirty at each, and was mirrored once all the same. */
const FIRST_FLUSHES = 3

export class MirrorJob implements JobBody {
  readonly #spec: MirrorSpec
  readonly #graph: Graph
  readonly #source: BlockNode
  readonly #target: BlockNode
  readonly #bitmap: DirtyBitmap
  readonly #limit: RateLimit
  readonly #stopwatch = new Stopwatch()
  readonly #held: GiveBack[] = []
  readonly #control: JobControl
  readonly #engine: CopyEngine
  readonly #flush: TargetFlush
  readonly #through: WriteThrough
  readonly #watch: ConvergenceWatch
  readonly #claims: Claim[] = []
  /** Held up while the last is copied, and from then on until finalize(). */
  readonly #users: MirrorUsers
  /** Of the base of a commit. */
  #access: WriteAccess | undefined
  /** The source's bitmap that says what is to be copied, and what it said. */
  #use: BitmapUse | undefined
  #marked: DirtyBitmap | undefined
  /** The source's users are being stopped. */
  #stopping = false
  #copyMode: CopyMode
  /** What is to be copied at first is known. */
  #begun = false
  /** It is to end with success, once it is ready. */
  #ending = false
  #pivot = false
  /** The target is not this job's any more. */
  #over = false
  /** Bytes known to be there to do; grows with writes to what was done already. */
  #len = 0

  constructor(spec: MirrorSpec, graph: Graph, buffers: Buffers, control: JobControl) {
    this.#spec = spec
    this.#graph = graph
    this.#control = control
    this.#source = graph.node(spec.source)
    this.#target = graph.node(spec.target)
    const replaced = spec.replaces === undefined ? this.#source : graph.node(spec.replaces)
    this.#users = new MirrorUsers(graph, this.#source, this.#target, replaced)
    this.#copyMode = spec.copyMode
    this.#limit = new RateLimit(spec.speed)
    const length = this.#source.length()
    const { writeWhole } = this.#target.driver.limits
    const granularity = Math.max(granularityFor(length, spec.granularity), writeWhole ?? 1)
    this.#bitmap = new DirtyBitmap(length, granularity)
    const courtesy = new Courtesy(graph.guests, this.#bufferSize(), () => this.#yields())
    const block = () => this.change('write-blocking')
    this.#watch = new ConvergenceWatch(granularity, spec.onDiverge, courtesy, block)
    this.#engine = new CopyEngine({
      source: this.#source,
      target: this.#target,
      bitmap: this.#bitmap,
      limit: this.#limit,
      control: this.#letGoInPauses(control),
      buffers,
      courtesy,
      ...piecesFor(this.#bufferSize(), buffers.slotSize, writeWhole),
      unmap: spec.unmap,
      ...(spec.sparse !== undefined && { sparse: spec.sparse }),
      targetIsZero: spec.targetIsZero,
    })
    this.#flush = new TargetFlush(this.#target, this.#engine, control)
    this.#through = new WriteThrough(
      this.#engine,
      () => this.#writesThrough(),
      (bytes) => {
        this.#len += bytes
      },
      (offset, bytes) => this.#dirtied(offset, bytes),
    )
  }

  async prepare(): Promise<void> {
    const spec = this.#spec
    try {
      const holdings = mirrorHoldings(this.#graph, spec)
      this.#held.push(() => holdings.letGo())
      this.#access = await claimEnds(holdings, this.#graph, spec, this.#control.signal)
      this.#claims.push(...holdings.claims)
      checkLength(this.#source, this.#bitmap.length)
      this.#use = await takeBitmap(this.#graph, this.#source, spec.bitmap, this.#held)
      const { granularity } = this.#bitmap
      const bitmap = () => [{ granularity, count: this.#bitmap.count }]
      const kind = { driver: 'mirror_top', guard: this.#watch.guard(this.#through) } as const
      const filter = this.#graph.insertFilter(spec.filter, this.#source, bitmap, kind)
      this.#users.comeThrough(filter)
      this.#held.push(
        () => filter.remove(),
        () => this.#users.release(),
        () => this.#watch.letGo(),
      )
      const listener = this.#source.addDirtyListener((offset, length) => {
        if (!this.#through.covers(offset, length)) this.#dirtied(offset, length)
      })
      this.#held.push(() => listener[Symbol.dispose]())
      // What is under way now is heard of by the job and by what follows the bitmap, when it ends.
      this.#marked = this.#use?.freeze()
    } catch (error) {
      await giveBack(this.#held, { error })
    }
  }

  /** What was not copied, where the rest is durable. */
  async #left(): Promise<DirtyBitmap | undefined> {
    const asked = this.#use !== undefined && this.#spec.bitmap?.mode === 'always'
    return asked && this.#begun && (await this.#flush.isDurable()) ? this.#bitmap : undefined
  }

  /** After success the target has everything, so nothing is left for the bitmap to show. */
  #finishBitmap(success: boolean, left: DirtyBitmap | undefined): void {
    const { bitmap } = this.#spec
    if (this.#use === undefined || this.#marked === undefined || bitmap === undefined) return
    if (success && bitmap.mode !== 'never') this.#use.freeze()
    this.#use.finish(bitmap.mode, success, left)
    this.#marked = undefined
  }

  /** Bytes in flight at most: what was asked for, rounded up to the granularity. */
  #bufferSize(): number {
    const { granularity } = this.#bitmap
    return Math.ceil((this.#spec.bufSize || DEFAULT_BUFFER) / granularity) * granularity
  }

  async run(): Promise<void> {
    this.#stopwatch.enter('probe')
    const equalize = this.#spec.commit === true ? lengthen : equalizeLength
    await equalize(this.#source, this.#target, () => this.#engine.touched())
    this.#len += await this.#markDirty()
    this.#begun = true
    await this.#synchronize('bulk')
    this.#watch.letGo()
    this.#phase('ready')
    this.#control.ready()
    if (this.#spec.autoComplete) this.#ending = true
    await this.#keepSynchronized()
    await this.#quiesce()
  }

  /** What is to be copied at first. Only formats know what was never stored; other storage is looked at while it is copied. */
  async #markDirty(): Promise<number> {
    const { sync, commit } = this.#spec
    if (sync === 'none') return 0
    if (commit === true) {
      const { layers } = layersTo(this.#graph, this.#source, this.#target)
      return await this.#engine.dirtyAllocated({ above: layers })
    }
    if (this.#marked !== undefined) return this.#engine.dirtyFrom(this.#marked)
    const format = this.#graph.format(this.#source)
    if (format === undefined) return this.#engine.dirtyAll()
    const shallow = sync === 'top' && format.backing !== undefined
    return await this.#engine.dirtyAllocated(shallow ? 'top' : 'all')
  }

  /**
   * Stops the source's users at a moment when the target is equal and durable; they go on after finalize().
   * They wait at the filter first, where the last is still copied; who uses the source itself waits only then.
   */
  async #quiesce(): Promise<void> {
    for (;;) {
      if (!this.#nearlyDone()) await this.#synchronize('converge')
      this.#stopping = true
      this.#watch.letGo()
      if (await this.#stopUsers()) return
      this.#stopping = false
      this.#users.release()
    }
  }

  /** @returns whether they are stopped, and nothing is left to be copied */
  async #stopUsers(): Promise<boolean> {
    const how = { moving: this.#pivot, signal: this.#control.signal }
    await this.#users.holdAbove(how)
    if (this.#nearlyDone()) await this.#synchronize('converge')
    await this.#users.holdAll(how)
    return this.#users.held && this.#bitmap.clean
  }

  /** So little is dirty that the source's users may wait for it. */
  #nearlyDone(): boolean {
    return this.#engine.remaining <= LAST_BYTES
  }

  /** Nobody waits for a job that is paused. */
  #letGoInPauses(control: JobControl): CopyControl {
    const aborted = new Promise<void>((resolve) => {
      control.signal.addEventListener('abort', () => resolve(), { once: true })
    })
    const pausePoint = async () => {
      this.#users.release()
      this.#watch.pause()
      const { pausing } = control
      await control.pausePoint()
      // What was lost meanwhile is looked for before it is asked for: else its first answer would be the loss.
      if (pausing) await Promise.race([this.#graph.revive([this.#spec.source, this.#spec.target]), aborted])
    }
    return copyControl(control, pausePoint)
  }

  /**
   * Copies what is dirty, then flushes; again, when something was written meanwhile. When the job is to end, the last is
   * left for when nobody writes.
   */
  async #synchronize(phase: 'bulk' | 'converge'): Promise<void> {
    const last = phase === 'converge'
    const enough = () => last && this.#ending && !this.#users.held && this.#nearlyDone()
    let left = last ? Number.POSITIVE_INFINITY : FIRST_FLUSHES
    do {
      if (!this.#bitmap.clean) {
        this.#flush.begin()
        this.#phase(phase)
        await this.#engine.copyDirty(enough)
      }
      if (last && this.#bitmap.clean) this.#watch.letGo()
      this.#phase('flush')
      await this.#flush.flush()
      left--
    } while (!this.#bitmap.clean && !enough() && left > 0)
  }

  async #keepSynchronized(): Promise<void> {
    while (!this.#ending) {
      if (this.#control.pausing) await this.#control.pausePoint()
      else if (!this.#bitmap.clean) {
        await this.#synchronize('converge')
        this.#phase('ready')
      } else await this.#control.wait()
    }
    if (this.#control.pausing) await this.#control.pausePoint()
  }

  /** Guests are heeded while they are not held up for the target anyway, where all is to be equal soon. */
  #yields(): boolean {
    return this.#spec.yielding && !this.#stopping && this.#copyMode === 'background'
  }

  /** No further change waits for the target of a job that is paused: it may be why. */
  #writesThrough(): boolean {
    const { pausing, signal } = this.#control
    return this.#copyMode === 'write-blocking' && !pausing && !signal.aborted && !this.#over
  }

  #dirtied(offset: number, length: number): void {
    this.#len += this.#engine.dirtied(offset, length)
    this.#watch.dirtied(offset, length)
    this.#control.wake()
  }

  #phase(phase: 'bulk' | 'converge' | 'ready' | 'flush'): void {
    this.#stopwatch.enter(phase)
    this.#control.phase(phase)
  }

  progress(): BodyProgress {
    return {
      offset: this.#len - this.#engine.remaining,
      len: this.#len,
      busy: this.#engine.busy,
      activelySynced:
        this.#begun &&
        this.#engine.synced &&
        (this.#copyMode === 'write-blocking' || this.#source.length() === 0),
      copyMode: this.#copyMode,
      charged: this.#limit.charged,
      convergence: this.#watch.state,
    }
  }

  look(at: number): void {
    const { pausing, signal } = this.#control
    const { remaining } = this.#engine
    const first = this.#stopwatch.phase === 'bulk'
    const course = { done: this.#len - remaining, remaining, first, limit: this.#limit.speed }
    if (signal.aborted || this.#stopping || this.#over) this.#watch.letGo()
    else if (pausing) this.#watch.pause()
    else this.#watch.look(at, course)
  }

  receipt(): JobReceipt {
    this.#stopwatch.stop()
    const { copied, zeroed, skipped } = this.#engine.counters
    return { copied, zeroed, skipped, flush: this.#flush.outcome, durations: this.#stopwatch.durations() }
  }

  complete(pivot: boolean): void {
    this.#pivot = pivot && this.#spec.partial !== true
    this.#ending = true
    this.#control.wake()
  }

  setSpeed(bytesPerSecond: number): void {
    this.#limit.set(bytesPerSecond)
    this.#control.wake()
  }

  setShare(bytesPerSecond: number): void {
    this.#limit.setShare(bytesPerSecond)
    this.#control.wake()
  }

  change(copyMode: CopyMode): void {
    this.#copyMode = copyMode
  }

  async finalize(commit: boolean): Promise<void> {
    const { ownsTarget, target } = this.#spec
    let moved = false
    this.#over = true
    await this.#through.idle()
    const left = commit ? undefined : await this.#left()
    await giveBack([
      // Those who use it now are not to lose it: with the last of them it goes.
      () =>
        ownsTarget && !(moved && this.#graph.isUsed(this.#target)) ? this.#graph.remove(target) : undefined,
      () => giveBack(this.#held),
      () => this.#finishBitmap(false, undefined),
      async () => {
        if (commit && this.#pivot) {
          await this.#users.move(this.#claims, this.#spec.underlay === true)
          moved = true
          // Who wrote the source writes the base of a commit from now on.
          if (!this.#source.readOnly) this.#graph.keptWritable(this.#access?.keep() ?? [])
        }
        this.#finishBitmap(commit, left)
      },
    ])
  }
}
