// SPDX-License-Identifier: Apache-2.0
// Snapshot: a node as it was at one moment. What changes are about to replace is copied to a target first; what was copied is
// read there, the rest in the source. Used by the backup job, whose engine copies the rest too, and by the drivers
// copy-before-write and snapshot-access.
//
//   chunk:  to do ──take()──▶ under way ──done()──▶ copied          failed(): to do again
//
// Invariant: no change reaches a chunk of the source before it is copied and nobody reads its old content there any more.
// Before begin() there is no moment yet, and nothing can be read.

import type { IoEngine } from '../../../native/types.js'
import { EACCES } from '../../common/errno.js'
import { CommandError, IoError } from '../../errors.js'
import { ActiveRanges } from './active-ranges.js'
import { type Area, DirtyBitmap } from './dirty-bitmap.js'
import type { Extent, ReadHow, Slice, StatusHow } from './driver.js'
import { SlicePool, takeRuns } from './driver-buffers.js'
import { wholePiece } from './granularity.js'
import type { BlockNode } from './node.js'
import { type Buffer, type CopyHow, RangeCopy, type Step } from './range-copy.js'

/** Buffers that every snapshot has to itself: who copies before a write waits for storage only, never for other jobs. */
const LARGE = 3
/** One slot more is for small copies, in buffers of this many bytes. */
const SMALL = 65536

export interface SnapshotOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  /** What is to be copied, of the whole node to the sector's end where it is to be read. The snapshot's own from now on. */
  readonly todo: DirtyBitmap
  /** What of it may be read; undefined: everything. The snapshot's own from now on. */
  readonly access: DirtyBitmap | undefined
  readonly how: CopyHow
}

/** Where the beginning of a range is. */
interface Place extends Area {
  readonly node: BlockNode
}

export class Snapshot {
  readonly todo: DirtyBitmap
  readonly copies: RangeCopy
  /** Changed by follow() only. */
  #source: BlockNode
  readonly #target: BlockNode
  readonly #engine: IoEngine
  readonly #slots: readonly number[]
  readonly #small: SlicePool
  readonly #large: SlicePool
  readonly #under = new ActiveRanges()
  /** Parts of the source that are being read as they were. */
  readonly #readers = new ActiveRanges()
  #access: DirtyBitmap | undefined
  #pending = 0
  #copiedBefore = 0
  #begun = false
  #broken = false

  /** @throws CommandError when the engine has no buffers for it */
  constructor(engine: IoEngine, { source, target, todo, access, how }: SnapshotOptions) {
    const { writeAlign, writeWhole } = target.driver.limits
    const length = wholePiece(engine.slotSize, how.compressed ? writeAlign : writeWhole)
    const large = takeRuns(engine, LARGE, length)
    const slots = [...engine.takeSlots(1), ...large]
    const [first] = slots
    if (first === undefined || slots.length < 1 + LARGE) {
      engine.giveSlots(slots)
      throw new CommandError('no free buffers for another snapshot; let running jobs end first')
    }
    this.#engine = engine
    this.#slots = slots
    const small = Array.from({ length: Math.floor(engine.slotSize / SMALL) }, (_, index) => ({
      ...{ slot: first, offset: index * SMALL, length: SMALL },
    }))
    this.#small = new SlicePool(small)
    this.#large = new SlicePool(large.map((slot) => ({ slot, offset: 0, length })))
    this.#source = source
    this.#target = target
    this.todo = todo
    this.#access = access
    this.copies = new RangeCopy(engine, source, target, how)
  }

  get source(): BlockNode {
    return this.#source
  }

  /** Another node, which reads the same, takes the place of the source, in a drained section of both. */
  follow(source: BlockNode): void {
    this.#source = source
    this.copies.follow(source)
  }

  /** Bytes that are to do or under way. */
  get remaining(): number {
    return this.todo.bytes + this.#pending
  }

  get busy(): boolean {
    return this.#under.size > 0
  }

  /** Resolves when nothing is under way. */
  idle(): Promise<void> {
    return this.#under.free({ offset: 0, length: this.todo.length })
  }

  /** Its bitmaps, as the reference has them: what may be read, what was copied before writes, what is to do. */
  bitmaps(): { readonly granularity: number; readonly count: number }[] {
    const { granularity, length, count } = this.todo
    const readable = this.#access?.count ?? Math.ceil(length / granularity) * granularity
    return [readable, this.#copiedBefore, count].map((count) => ({ granularity, count }))
  }

  /** The moment that is kept is now. What is to be copied is marked, and who changes the source waits from now on. */
  begin(): void {
    this.#begun = true
  }

  get broken(): boolean {
    return this.#broken
  }

  /** A change could not wait for its copy: the snapshot is lost, keeps nobody waiting and cannot be read. */
  break(): void {
    this.#broken = true
  }

  /** Nothing of the range keeps a change waiting. */
  isOver(offset: number, length: number): boolean {
    if (this.#broken) return true
    if (this.todo.clean && !this.busy && this.#readers.size === 0) return true
    const range = this.#chunks(offset, length)
    return !this.#isToDo(range) && !this.#under.overlaps(range) && !this.#readers.overlaps(range)
  }

  /**
   * Chunks of a range that are to do, run after run. Whoever takes a run copies it, then says whether it is done or failed
   * before it takes the next.
   * @param most  longest run, bytes; in whole chunks, at least one
   */
  *take({ offset, length }: Area, most = length): Generator<Area> {
    const { offset: start, length: whole } = this.#chunks(offset, length)
    const end = start + whole
    for (let at = start; at < end; ) {
      const run = this.todo.nextDirty(at, Math.min(most, end - at))
      if (run === undefined || run.offset >= end) return
      const part = { offset: run.offset, length: Math.min(end, run.offset + run.length) - run.offset }
      this.todo.clear(part.offset, part.length)
      this.#pending += part.length
      this.#under.add(part)
      yield part
      at = part.offset + part.length
    }
  }

  done(part: Area): void {
    this.#pending -= part.length
    this.#under.delete(part)
  }

  failed(part: Area): void {
    this.todo.set(part.offset, part.length)
    this.copies.vouched = false
    this.done(part)
  }

  /** Copies the data of a run that was taken. @param most  bytes in the buffer */
  async copy(part: Area, buffer: Buffer, most: number, step: Step): Promise<void> {
    for (let at = part.offset, end = at + part.length; at < end; ) {
      const length = Math.min(most, end - at)
      await this.copies.copy({ offset: at, length }, buffer, step)
      at += length
    }
  }

  /** Resolves when a change of the range may go on: all of it was copied, by whomever. Rejects when that failed. */
  async copyBefore(offset: number, length: number): Promise<void> {
    const range = this.#chunks(offset, length)
    for (;;) {
      if (this.#isToDo(range)) await this.#copyAll(range)
      else if (this.#under.overlaps(range)) await this.#under.free(range)
      else if (this.#readers.overlaps(range)) await this.#readers.free(range)
      else return
    }
  }

  async #copyAll(range: Area): Promise<void> {
    const pool = range.length > SMALL ? this.#large : this.#small
    using loan = await pool.take()
    const [slice] = loan.slices
    if (slice === undefined) return
    for (const part of this.take(range, slice.length)) {
      try {
        if (await this.#isHole(part)) await this.copies.zero(part)
        else await this.copy(part, slice, slice.length, { operation: 'read' })
        this.done(part)
        this.#copiedBefore += part.length
      } catch (error) {
        this.failed(part)
        throw error
      }
    }
  }

  /** Of long runs, as zeroing and discarding make them, the source is asked first. */
  async #isHole({ offset, length }: Area): Promise<boolean> {
    if (length <= SMALL) return false
    const extent = await this.source.status(offset, length)
    return extent.kind === 'zero' && extent.length === length
  }

  /** Reads the node as it was. @throws IoError EACCES where it may not be read */
  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    this.#checkAccess('read', offset, into.length)
    let zero = true
    for (let done = 0; done < into.length; ) {
      const slice = { slot: into.slot, offset: into.offset + done, length: into.length - done }
      done += await this.#at(offset + done, slice.length, async ({ node, offset: at, length }) => {
        if (!(await node.read(at, { ...slice, length }, how))) zero = false
        return length
      })
    }
    return how?.scan === true && zero
  }

  /** The first extent of the node as it was. @throws IoError EACCES where it may not be read */
  async status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    this.#checkAccess('status', offset, 1)
    const readable = this.#access?.nextDirty(offset, length)
    const end = readable === undefined ? offset + length : readable.offset + readable.length
    return this.#at(offset, Math.min(length, end - offset), async (place) => {
      const extent = await place.node.status(place.offset, place.length, how)
      if (place.node === this.source) return extent
      return { offset: extent.offset, length: extent.length, kind: extent.kind, allocated: true }
    })
  }

  /** What nobody reads any more: whole chunks are not kept from now on. @throws IoError EACCES where nothing may be read */
  async forget(offset: number, length: number): Promise<void> {
    this.#checkAccess('discard', offset, 0)
    const { granularity, length: all } = this.todo
    const start = Math.ceil(offset / granularity) * granularity
    const end = offset + length >= all ? all : Math.floor((offset + length) / granularity) * granularity
    if (end <= start) return
    this.#access ??= allOf(this.todo)
    this.#access.clear(start, end - start)
    this.todo.clear(start, end - start)
    const range = { offset: start, length: end - start }
    while (this.#under.overlaps(range)) await this.#under.free(range)
    await this.#target.discard(start, end - start)
  }

  /** Gives its buffers back; nothing may be under way. */
  close(): void {
    this.#engine.giveSlots(this.#slots)
  }

  /** Does something where the beginning of a range is, and keeps it there meanwhile. */
  async #at<T>(offset: number, length: number, work: (place: Place) => Promise<T>): Promise<T> {
    const place = this.#place(offset, length)
    if (place.node !== this.source) return work(place)
    this.#readers.add(place)
    try {
      const result = await work(place)
      // It may have been written over meanwhile.
      if (this.#broken) throw new IoError(EACCES, 'read', this.source.name, offset, length)
      return result
    } finally {
      this.#readers.delete(place)
    }
  }

  #place(offset: number, length: number): Place {
    const first = { offset, length: 1 }
    const { granularity } = this.todo
    const run = this.todo.nextDirty(offset, Math.ceil(length / granularity + 1) * granularity)
    if (run !== undefined && run.offset <= offset)
      return { node: this.source, offset, length: Math.min(length, run.offset + run.length - offset) }
    const chunk = this.#chunks(offset, 1)
    const rest = Math.min(length, chunk.offset + chunk.length - offset)
    if (this.#under.overlaps(first)) return { node: this.source, offset, length: rest }
    const clear = Math.min(length, (run?.offset ?? offset + length) - offset)
    const node = this.#target
    return { node, offset, length: this.#under.overlaps({ offset, length: clear }) ? rest : clear }
  }

  #checkAccess(op: 'read' | 'status' | 'discard', offset: number, length: number): void {
    const lost = this.#broken || !this.#begun
    if (!lost && (this.#access === undefined || length === 0)) return
    const { granularity } = this.todo
    const run = this.#access?.nextDirty(offset, Math.ceil(length / granularity + 1) * granularity)
    const readable = run !== undefined && run.offset <= offset && run.offset + run.length >= offset + length
    if (lost || !readable) throw new IoError(EACCES, op, this.source.name, offset, length)
  }

  #isToDo({ offset, length }: Area): boolean {
    const run = this.todo.nextDirty(offset, this.todo.granularity)
    return run !== undefined && run.offset < offset + length
  }

  /** The chunks that a range touches. */
  #chunks(offset: number, length: number): Area {
    const { granularity, length: all } = this.todo
    const start = Math.floor(offset / granularity) * granularity
    const end = Math.min(all, Math.ceil((offset + length) / granularity) * granularity)
    return { offset: start, length: Math.max(0, end - start) }
  }
}

function allOf({ length, granularity }: DirtyBitmap): DirtyBitmap {
  const all = new DirtyBitmap(length, granularity)
  all.set(0, length)
  return all
}
