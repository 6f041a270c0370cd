// SPDX-License-Identifier: Apache-2.0
// Copy engine: brings the target up to date wherever the dirty bitmap says so. One loop decides what is next, a task
// pool reads and writes. Used by job bodies.
//
// Invariants: a bit is cleared before its range is copied and set again when that fails, so "clean and idle" is "done".
// What overlaps is copied one after the other, so the content that was read last is written last.
// Zeroes: what the source proves to be zero is never read; what the target proves to be zero is never written.

import type { ErrorAction } from '../../common/job-messages.js'
import { Cancelled, IoError } from '../../errors.js'
import type { BlockNode } from '../block/node.js'
import { ActiveRanges, overlap } from './active-ranges.js'
import type { Buffers } from './buffers.js'
import type { Area, DirtyBitmap } from './dirty-bitmap.js'
import { type CopyCounters, RangeCopy, type Step } from './range-copy.js'
import type { RateLimit } from './rate-limit.js'
import { TaskPool } from './task-pool.js'

/** Longest dirty area taken at once, bytes. Its bits are clear while it is being worked on. */
const AREA = 2 ** 30
/** Longest time without looking whether messages came, milliseconds: what is known to be zero needs no I/O. */
const TURN = 10
/** Pauses between rounds of a job that ignores errors, milliseconds: from 1, doubling. */
const LONGEST_BACKOFF_MS = 1000

/** What the engine is told and asks while it copies; a job's control is one. */
export interface CopyControl {
  /** Aborted by a forced cancel; requests in flight still end. */
  readonly signal: AbortSignal
  /** A pause was asked for: let the requests in flight run dry, then call pausePoint(). */
  readonly pausing: boolean
  /** With nothing in flight: tells that the job is paused and waits for its end. Throws Cancelled. */
  pausePoint(): Promise<void>
  /** Sleeps until it is woken or the time is over; what woke it must be looked up. Throws Cancelled. */
  wait(timeoutMs?: number): Promise<void>
  wake(): void
  /**
   * What the policy makes of an I/O error; tells the main thread.
   * 'report': it is to be thrown. 'ignore': try again. 'stop': a pause was asked for, then try again.
   * @param fatal  no policy can help (a failed flush): always 'report'
   */
  ioError(operation: 'read' | 'write', error: unknown, fatal?: boolean): ErrorAction
}

export interface CopyOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly bitmap: DirtyBitmap
  readonly limit: RateLimit
  readonly control: CopyControl
  readonly buffers: Buffers
  /** Pieces under way at most. */
  readonly tasks: number
  /** Longest read and write, bytes; not above the slot size. */
  readonly piece: number
  /** Zero ranges may become holes on the target. */
  readonly unmap: boolean
  /** The user vouches that the target reads as zero where nothing was written yet. */
  readonly targetIsZero: boolean
}

/** What the source has up to an offset. */
interface Run {
  readonly kind: 'data' | 'zero'
  readonly end: number
}

/** A run that the source is asked for. */
interface Question extends Area {
  /** Something in it was copied meanwhile, and may be otherwise. */
  stale: boolean
}

export class CopyEngine {
  readonly counters: CopyCounters
  readonly #options: CopyOptions
  readonly #ranges: RangeCopy
  readonly #active = new ActiveRanges()
  /** What the loop over dirty bits learnt of the source last. */
  #asked: Question | undefined
  /** Bytes whose bits are clear and which are not done: taken by the loop over dirty bits, and by copyNow(). */
  #pending = 0
  #passing = 0
  /** Length of the next breath after an ignored error, ms; 0 while all goes well. */
  #backoff = 0
  #breathe = false

  constructor(options: CopyOptions) {
    this.#options = options
    const { source, target, unmap, targetIsZero } = options
    this.#ranges = new RangeCopy(source, target, unmap, targetIsZero)
    this.counters = this.#ranges.counters
  }

  /** Bytes still to do: dirty, or under way. */
  get remaining(): number {
    return this.#options.bitmap.bytes + this.#pending + this.#passing
  }

  /** All is equal but for what copyNow() is about to copy. */
  get synced(): boolean {
    return this.#options.bitmap.clean && this.#pending === 0
  }

  get busy(): boolean {
    return this.#active.size > 0
  }

  /** Everything is to be copied. @returns bytes */
  dirtyAll(): number {
    const { bitmap } = this.#options
    bitmap.set(0, bitmap.length)
    if (bitmap.length > 0) this.touched()
    return bitmap.length
  }

  /**
   * Of a source that is an image, only what somebody stored is to be copied.
   * @param layers  top: the uppermost layer alone, as the target lies above the same layers below; all: the whole chain,
   *                and what no layer holds where the target is not proved to read as zero
   * @returns bytes that were clean before
   */
  async dirtyAllocated(layers: 'top' | 'all'): Promise<number> {
    const { bitmap } = this.#options
    const pool = new TaskPool(1)
    let marked = 0
    for (let at = 0; at < bitmap.length; ) {
      await this.#checkpoint(pool)
      await new Promise((resolve) => setImmediate(resolve))
      for (const end = Math.min(at + AREA, bitmap.length); at < end; ) {
        const { skip, length } = await this.#needless(at, end - at, layers)
        const before = bitmap.bytes
        if (!skip) bitmap.set(at, length)
        marked += bitmap.bytes - before
        at += length
      }
    }
    if (layers === 'all') this.counters.skipped += bitmap.length - bitmap.bytes
    if (bitmap.length > 0) this.touched()
    return marked
  }

  /** Whether the beginning of a range need not be copied. What storage does not tell is copied. */
  async #needless(
    offset: number,
    length: number,
    layers: 'top' | 'all',
  ): Promise<{ skip: boolean; length: number }> {
    const { source, target } = this.#options
    let operation: 'read' | 'write' = 'read'
    try {
      const extent = await source.status(offset, length)
      if (layers === 'top') return { skip: !extent.allocated, length: extent.length }
      if (extent.absent !== true) return { skip: false, length: extent.length }
      if (this.#ranges.vouched) return { skip: true, length: extent.length }
      operation = 'write'
      const there = await target.status(offset, extent.length)
      return { skip: there.kind === 'zero', length: there.length }
    } catch (error) {
      if (this.#judge(operation, error) === 'report') throw error
      return { skip: false, length }
    }
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
    const { bitmap, tasks } = this.#options
    const pool = new TaskPool(tasks)
    let heard = performance.now()
    try {
      for (let from = 0; ; ) {
        if (performance.now() - heard > TURN) {
          await new Promise((resolve) => setImmediate(resolve))
          heard = performance.now()
        }
        await this.#checkpoint(pool)
        const area = bitmap.nextDirty(from, AREA)
        if (area !== undefined) {
          await this.#copyArea(area, pool)
          from = area.offset + area.length
        } else if (from > 0 || pool.running > 0) {
          await pool.idle()
          from = 0
          if (enough()) return
        } else return
      }
    } finally {
      await pool.settle()
    }
  }

  /** Makes what was written durable. Throws when that fails: it is never tried again and believed. */
  flush(): Promise<void> {
    return this.#ranges.flush()
  }

  /** Stops for a pause (with nothing in flight), a cancel, and the breath between rounds of ignored errors. */
  async #checkpoint(pool: TaskPool): Promise<void> {
    const { control } = this.#options
    for (;;) {
      if (control.signal.aborted) throw new Cancelled()
      if (control.pausing) {
        await pool.idle()
        await control.pausePoint()
      } else if (this.#breathe && pool.running === 0) {
        this.#breathe = false
        await control.wait(this.#backoff)
      } else return
    }
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
        await this.#turn(pool)
        const stale = asked.stale && known?.kind === 'zero'
        if (known === undefined || known.end <= at || stale) {
          asked = { offset: at, length: end - at, stale: false }
          this.#asked = asked
          try {
            const extent = await source.status(at, end - at)
            known = this.#wholeUnits(extent.kind, at, at + extent.length, end)
          } catch (error) {
            if (this.#judge('read', error) === 'report') throw error
            return
          }
        }
        const left = known.end - at
        const length = known.kind === 'zero' ? left : Math.min(left, this.#pieceLength())
        await this.#start({ offset: at, length }, asked, known.kind, pool)
        at += length
      }
    } finally {
      if (at < end) this.#giveBack(at, end - at)
    }
  }

  /** A run of the source in units that the target writes whole: what is only partly zero counts as data. */
  #wholeUnits(kind: 'data' | 'zero', start: number, end: number, limit: number): Run {
    const { target, piece } = this.#options
    const unit = Math.min(target.driver.limits.writeAlign ?? 1, piece)
    if (end >= limit || end % unit === 0) return { kind, end: Math.min(end, limit) }
    const down = Math.floor(end / unit) * unit
    if (kind === 'zero' && down > start) return { kind, end: down }
    return { kind: 'data', end: Math.min(limit, down + unit) }
  }

  #pieceLength(): number {
    const { limit, bitmap, piece } = this.#options
    return limit.piece(Math.min(bitmap.granularity, piece), piece)
  }

  /** Waits until the next piece may start: room in the pool, no pause, no debt to the speed limit. */
  async #turn(pool: TaskPool): Promise<void> {
    const { control, limit } = this.#options
    for (;;) {
      await this.#checkpoint(pool)
      await pool.room()
      const debt = limit.wait()
      if (debt > 0) await control.wait(debt)
      else if (!control.pausing) return
    }
  }

  /** @param asked  what the kind of the range was learnt from */
  async #start(range: Area, asked: Question, kind: 'data' | 'zero', pool: TaskPool): Promise<void> {
    while (this.#active.overlaps(range)) await this.#active.free(range)
    const slot = kind === 'data' ? await this.#takeSlot(pool) : undefined
    try {
      await pool.room()
      while (this.#active.overlaps(range)) await this.#active.free(range)
    } catch (error) {
      if (slot !== undefined) this.#options.buffers.give(slot)
      throw error
    }
    if (slot === undefined && asked.stale) {
      this.#giveBack(range.offset, range.length)
      return
    }
    if (slot !== undefined) this.#options.limit.charge(range.length)
    await pool.start(async () => {
      this.#active.add(range)
      try {
        await (slot === undefined ? this.#zero(range) : this.#copy(range, slot))
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
    const { buffers } = this.#options
    this.#ranges.vouched = false
    this.#passing += range.length
    const whole = this.#widened(range)
    if (this.#asked !== undefined && overlap(whole, this.#asked)) this.#asked.stale = true
    const slot = await buffers.acquire()
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
    const { source, target, piece } = this.#options
    const unit = Math.min(target.driver.limits.writeAlign ?? 1, piece)
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
      const run = this.#wholeUnits(extent.kind, offset, offset + extent.length, end)
      if (run.kind === 'zero') {
        await this.#ranges.zero({ offset, length: run.end - offset })
        return run.end - offset
      }
    }
    const first = Math.min(length, piece)
    await this.#ranges.copy({ offset, length: first }, slot, { operation: 'read' })
    return first
  }

  /** Other jobs may have all slots, for as long as their storage is stuck: verbs are obeyed meanwhile. */
  async #takeSlot(pool: TaskPool): Promise<number> {
    const { buffers, control } = this.#options
    for (;;) {
      const slot = buffers.take()
      if (slot !== undefined) return slot
      buffers.whenGiven(() => control.wake())
      await control.wait()
      await this.#checkpoint(pool)
    }
  }

  async #copy(range: Area, slot: number): Promise<void> {
    const step: Step = { operation: 'read' }
    try {
      await this.#ranges.copy(range, slot, step)
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
    if (!this.#breathe) this.#backoff = 0
  }

  #failed(range: Area, operation: 'read' | 'write', error: unknown): void {
    this.#giveBack(range.offset, range.length)
    this.#ranges.vouched = false
    if (this.#judge(operation, error) === 'report') throw error
  }

  #giveBack(offset: number, length: number): void {
    this.#pending -= length
    this.#options.bitmap.set(offset, length)
  }

  #judge(operation: 'read' | 'write', error: unknown): ErrorAction {
    if (!(error instanceof IoError)) throw error
    const action = this.#options.control.ioError(operation, error)
    if (action === 'ignore' && !this.#breathe) {
      this.#breathe = true
      this.#backoff = Math.min(LONGEST_BACKOFF_MS, Math.max(1, this.#backoff * 2))
    }
    return action
  }
}
