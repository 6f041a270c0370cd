// SPDX-License-Identifier: Apache-2.0
// Copy engine: brings the target up to date wherever the dirty bitmap says so. One loop decides what is next, a task
// pool reads and writes. Used by job bodies.
//
// Invariants: a bit is cleared before its range is copied and set again when that fails, so "clean and idle" is "done".
// What overlaps is copied one after the other, so the content that was read last is written last.
// Zeroes: what the source proves to be zero is never read; what the target proves to be zero is never written.
// Of a snapshot the bits mean something else: see StillCopy.

import { IoError } from '../../errors.js'
import { ActiveRanges, overlap } from '../block/active-ranges.js'
import type { Area, DirtyBitmap } from '../block/dirty-bitmap.js'
import { type CopyCounters, RangeCopy, type Step } from '../block/range-copy.js'
import { type Layers, markAllocated, unmarkUnallocated } from './allocated.js'
import type { CopyOptions } from './copy-options.js'
import { Pace } from './pace.js'
import { PiecePlan, type Run } from './piece-plan.js'
import { StillCopy } from './still-copy.js'
import { TaskPool } from './task-pool.js'

/** Longest dirty area taken at once, bytes. Its bits are clear while it is being worked on. */
const AREA = 2 ** 30
/** Longest time without looking whether messages came, milliseconds: what is known to be zero needs no I/O. */
const TURN = 10

/** A run that the source is asked for. */
interface Question extends Area {
  /** Something in it was copied meanwhile, and may be otherwise. */
  stale: boolean
}

export class CopyEngine {
  readonly counters: CopyCounters
  readonly #options: CopyOptions
  readonly #ranges: RangeCopy
  readonly #pace: Pace
  readonly #plan: PiecePlan
  /** Of a snapshot. */
  readonly #still: StillCopy | undefined
  readonly #active = new ActiveRanges()
  /** What the loop over dirty bits learnt of the source last. */
  #asked: Question | undefined
  /** Bytes whose bits are clear and which are not done: taken by the loop over dirty bits, and by copyNow(). */
  #pending = 0
  #passing = 0

  constructor(options: CopyOptions) {
    this.#options = options
    const { source, target, unmap, sparse, targetIsZero, snapshot, below } = options
    const { control, limit, buffers, courtesy } = options
    this.#ranges =
      snapshot?.copies ??
      new RangeCopy(buffers.engine, source, target, { unmap, sparse, vouched: targetIsZero, below })
    this.#pace = new Pace(control, limit, buffers, courtesy)
    this.#plan = new PiecePlan(options)
    this.#still = snapshot && new StillCopy(options, snapshot, this.#pace, this.#plan)
    this.counters = this.#ranges.counters
  }

  /** Bytes still to do: dirty, or under way. */
  get remaining(): number {
    const { bitmap, snapshot } = this.#options
    return snapshot === undefined ? bitmap.bytes + this.#pending + this.#passing : snapshot.remaining
  }

  /** All is equal but for what copyNow() is about to copy. */
  get synced(): boolean {
    return this.#options.bitmap.clean && this.#pending === 0
  }

  get busy(): boolean {
    return this.#active.size > 0 || this.#options.snapshot?.busy === true
  }

  /** Everything is to be copied. @returns bytes */
  dirtyAll(): number {
    const { bitmap } = this.#options
    bitmap.set(0, bitmap.length)
    if (bitmap.length > 0) this.touched()
    return bitmap.length
  }

  /** What a bitmap of the source has marked is to be copied. @returns bytes that were clean before */
  dirtyFrom(marked: DirtyBitmap): number {
    const { bitmap } = this.#options
    const before = bitmap.bytes
    bitmap.merge(marked)
    this.counters.skipped += bitmap.length - bitmap.bytes
    if (!marked.clean) this.touched()
    return bitmap.bytes - before
  }

  /**
   * Of a source that is an image, only what somebody stored is to be copied.
   * @returns bytes that were clean before
   */
  async dirtyAllocated(layers: Layers): Promise<number> {
    const { bitmap, source, target, below } = this.#options
    const { vouched } = this.#ranges
    const marked = await markAllocated({ bitmap, source, target, layers, vouched, below }, this.#pace)
    if (layers === 'all') this.counters.skipped += bitmap.length - bitmap.bytes
    if (bitmap.length > 0) this.touched()
    return marked
  }

  /** Of a snapshot, what the uppermost layer of the source does not hold is not to be copied. @param dropped  told of bytes */
  dropUnallocated(dropped: (bytes: number) => void): Promise<void> {
    return unmarkUnallocated(this.#options, this.#pace, dropped)
  }

  /** The target was changed for this job without this engine. */
  touched(): void {
    this.#ranges.unflushed = true
  }

  /** The source changed: copy the range (again). @returns bytes that were clean before */
  dirtied(offset: number, length: number): number {
    const before = this.#options.bitmap.bytes
    this.#options.bitmap.set(offset, length)
    this.#ranges.vouched = false
    return this.#options.bitmap.bytes - before
  }

  /**
   * Copies until nothing is dirty and nothing is under way. Throws the error that policy reports, or Cancelled.
   * @param enough  asked after every pass over the dirty bits, with nothing under way: whether to leave it at that
   */
  async copyDirty(enough: () => boolean = () => false): Promise<void> {
    const { bitmap, tasks, snapshot, control, courtesy } = this.#options
    const pool = new TaskPool(tasks)
    using _listening = courtesy.listen()
    let heard = performance.now()
    try {
      for (let from = 0; ; ) {
        if (performance.now() - heard > TURN) {
          await new Promise((resolve) => setImmediate(resolve))
          heard = performance.now()
        }
        await this.#pace.checkpoint(pool)
        const area = bitmap.nextDirty(from, AREA)
        if (area !== undefined) {
          await (this.#still?.copyArea(area, pool) ?? this.#copyArea(area, pool))
          from = area.offset + area.length
        } else if (from > 0 || pool.running > 0) {
          await pool.idle()
          from = 0
          if (enough()) return
        } else if (snapshot?.busy === true) {
          // What others copy before a write is part of it, and dirty again when that fails.
          void snapshot.idle().then(() => control.wake())
          await control.wait()
        } else return
      }
    } finally {
      await pool.settle()
    }
  }

  /** Makes what was written durable. Throws when that fails: it is never tried again and believed. */
  flush(): Promise<void> {
    return this.#options.courtesy.during(0, () => this.#ranges.flush())
  }

  /** Walks an area extent by extent. What was not reached, for whatever reason, is dirty again. */
  async #copyArea(area: Area, pool: TaskPool): Promise<void> {
    const { bitmap, source } = this.#options
    const end = area.offset + area.length
    let at = area.offset
    bitmap.clear(area.offset, area.length)
    this.#pending += area.length
    try {
      // What was asked once is not asked for each piece. Where the source changes meanwhile, it will be dirty again, or
      // is copied by copyNow(), and must not be zeroed then.
      let asked: Question = { offset: at, length: 0, stale: true }
      for (let known: Run | undefined; at < end; ) {
        await this.#pace.turn(pool)
        const stale = asked.stale && known?.kind === 'zero'
        if (known === undefined || known.end <= at || stale) {
          asked = { offset: at, length: end - at, stale: false }
          this.#asked = asked
          try {
            const extent = await source.status(at, end - at)
            known = this.#plan.wholeRun(extent.kind, at, at + extent.length, end)
          } catch (error) {
            if (this.#pace.judge('read', error) === 'report') throw error
            return
          }
        }
        const left = known.end - at
        const length = known.kind === 'zero' ? left : Math.min(left, this.#plan.pieceLength())
        await this.#start({ offset: at, length }, asked, known.kind, pool)
        at += length
      }
    } finally {
      if (at < end) this.#giveBack(at, end - at)
    }
  }

  /** @param asked  what the kind of the range was learnt from */
  async #start(range: Area, asked: Question, kind: 'data' | 'zero', pool: TaskPool): Promise<void> {
    const { buffers, limit, courtesy, piece } = this.#options
    while (this.#active.overlaps(range)) await this.#active.free(range)
    const slot = kind === 'data' ? await this.#pace.slot(pool, piece) : undefined
    try {
      await pool.room()
      while (this.#active.overlaps(range)) await this.#active.free(range)
    } catch (error) {
      if (slot !== undefined) buffers.give(slot)
      throw error
    }
    if (slot === undefined && asked.stale) {
      this.#giveBack(range.offset, range.length)
      return
    }
    if (slot !== undefined) limit.charge(range.length)
    await pool.start(async () => {
      this.#active.add(range)
      try {
        if (slot === undefined) await courtesy.during(0, () => this.#zero(range))
        else await courtesy.during(range.length, () => this.#copy(range, slot))
      } finally {
        this.#active.delete(range)
      }
    })
  }

  /**
   * Copies a range of the source as it is now, whatever its bits say; they stay as they are.
   * @returns false: it failed, and the target may hold anything there
   */
  async copyNow(range: Area): Promise<boolean> {
    const { buffers, piece } = this.#options
    this.#ranges.vouched = false
    this.#passing += range.length
    const whole = this.#widened(range)
    if (this.#asked !== undefined && overlap(whole, this.#asked)) this.#asked.stale = true
    const slot = await buffers.acquire(piece)
    while (this.#active.overlaps(whole)) await this.#active.free(whole)
    this.#active.add(whole)
    try {
      for (let at = whole.offset, end = at + whole.length; at < end; )
        at += await this.#copyFirst({ offset: at, length: end - at }, slot)
      return true
    } catch (error) {
      if (!(error instanceof IoError)) throw error
      return false
    } finally {
      this.#active.delete(whole)
      buffers.give(slot)
      this.#passing -= range.length
    }
  }

  /** The range in units that the target writes whole. */
  #widened({ offset, length }: Area): Area {
    const { source } = this.#options
    const unit = this.#plan.unit
    const start = Math.floor(offset / unit) * unit
    const last = Math.max(offset + length, source.length())
    const end = Math.min(last, Math.ceil((offset + length) / unit) * unit)
    return { offset: start, length: end - start }
  }

  /** Copies the beginning of a range. @returns bytes */
  async #copyFirst({ offset, length }: Area, slot: number): Promise<number> {
    const { source, piece } = this.#options
    if (length > piece) {
      const extent = await source.status(offset, length)
      const end = offset + length
      const run = this.#plan.wholeRun(extent.kind, offset, offset + extent.length, end)
      if (run.kind === 'zero') {
        await this.#ranges.zero({ offset, length: run.end - offset })
        return run.end - offset
      }
    }
    const first = Math.min(length, piece)
    await this.#ranges.copy({ offset, length: first }, { slot, offset: 0 }, { operation: 'read' })
    return first
  }

  async #copy(range: Area, slot: number): Promise<void> {
    const step: Step = { operation: 'read' }
    try {
      await this.#ranges.copy(range, { slot, offset: 0 }, step)
      this.#done(range)
    } catch (error) {
      this.#failed(range, step.operation, error)
    } finally {
      this.#options.buffers.give(slot)
    }
  }

  async #zero(range: Area): Promise<void> {
    try {
      await this.#ranges.zero(range)
      this.#done(range)
    } catch (error) {
      this.#failed(range, 'write', error)
    }
  }

  #done(range: Area): void {
    this.#pending -= range.length
    this.#pace.wentWell()
  }

  #failed(range: Area, operation: 'read' | 'write', error: unknown): void {
    this.#giveBack(range.offset, range.length)
    this.#ranges.vouched = false
    if (this.#pace.judge(operation, error) === 'report') throw error
  }

  #giveBack(offset: number, length: number): void {
    this.#pending -= length
    this.#options.bitmap.set(offset, length)
  }
}
