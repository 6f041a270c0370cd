// SPDX-License-Identifier: Apache-2.0
// A node: one layer of a disk in the graph, and the one checked door to it. Jobs, exports and parent nodes call
// BlockNode; only BlockNode calls a driver. It keeps range, read-only state, statistics, the number of requests in
// flight, drained sections, the range lock and dirty marks. The graph makes nodes and swaps their drivers.
//
// Happy path: counting and one await. Nothing is allocated per request unless somebody asked for hooks or the
// storage needs aligned requests.

import type { Range } from '../../../native/types.js'
import { EINVAL, ENOTSUP, EPERM } from '../../common/errno.js'
import { IoError, type IoOp } from '../../errors.js'
import type { NodeStats } from '../messages.js'
import { NodeBitmaps } from './bitmaps/node-bitmaps.js'
import { clipped } from './clipped.js'
import type {
  BlockDriver,
  Extent,
  ReadHow,
  ResizeHow,
  Slice,
  StatusHow,
  WriteHow,
  ZeroHow,
} from './driver.js'
import { InFlight } from './in-flight.js'
import { type Borrower, type Loan, Loans } from './loans.js'
import { newCounters, reached } from './node-counters.js'
import type { NodeOptions } from './options.js'
import { areWhole, eachPiece } from './pieces.js'
import { type RangeHold, RangeLock } from './range-lock.js'
import { type BeforeWrite, type DirtyListener, NOBODY, Watchers } from './watchers.js'

/** Sizes are told to users in sectors of this many bytes; the last one may be partial in storage. */
export const SECTOR = 512

/** Whether the bytes of a slice are all zero. */
export type ZeroScan = (slice: Slice) => boolean

export class BlockNode {
  readonly name: string
  readonly bitmaps: NodeBitmaps
  readonly #isZero: ZeroScan
  readonly #counters = newCounters()
  readonly #loans = new Loans(this.#counters)
  readonly #ranges = new RangeLock()
  readonly #watchers = new Watchers()
  readonly #flow = new InFlight()
  #driver: BlockDriver
  #options: NodeOptions

  /** Only the graph makes nodes. */
  constructor(
    name: string,
    driver: BlockDriver,
    options: NodeOptions,
    isZero: ZeroScan,
    bitmaps: NodeBitmaps = new NodeBitmaps(),
  ) {
    this.name = name
    this.#driver = driver
    this.#options = options
    this.#isZero = isZero
    this.bitmaps = bitmaps
    bitmaps.belongTo(this, () => this.#loans.callBack())
  }

  get driver(): BlockDriver {
    return this.#driver
  }
  /** What was asked for when the node was opened, with defaults. */
  get options(): NodeOptions {
    return this.#options
  }
  get readOnly(): boolean {
    return this.#options.readOnly
  }
  get stats(): NodeStats {
    this.#loans.count()
    return this.#counters
  }

  /** Exact bytes; a file's last sector may be partial. Requests may reach to the end of that sector. */
  length(): number {
    return this.#driver.length()
  }

  /** Bytes in whole sectors, as users know it. */
  size(): number {
    return Math.ceil(this.#driver.length() / SECTOR) * SECTOR
  }

  /**
   * Fills the slice from the node; what lies beyond the exact end reads as zero.
   * @returns with `how.scan`: whether all bytes read are zero; else false
   */
  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    while (this.#flow.gate !== undefined) await this.#flow.gate
    this.#check('read', offset, into.length)
    this.#counters.reads += 1
    this.#counters.readBytes += into.length
    this.#flow.enter()
    try {
      return await this.#driver.read(offset, into, how)
    } catch (error) {
      this.#counters.failedReads += 1
      throw error
    } finally {
      this.#flow.leave()
    }
  }

  async write(offset: number, from: Slice, how?: WriteHow): Promise<void> {
    const length = from.length
    let told = NOBODY
    while (this.#flow.gate !== undefined || told !== this.#watchers.before)
      told = await this.#announce('write', offset, length, told)
    this.#checkChange('write', offset, length)
    const plain = how?.fua !== true && how?.below !== true
    if (this.#options.detectZeroes !== 'off' && plain && this.#isZero(from)) {
      return this.zero(offset, length, { unmap: this.#options.detectZeroes === 'unmap', fast: false })
    }
    this.#counters.writes += 1
    this.#counters.writeBytes += length
    let hold: RangeHold | undefined
    this.#flow.enter()
    try {
      if (this.#driver.limits.requestAlign > 1) hold = await this.#lock(offset, length)
      await this.#driver.write(offset, from, how ?? PLAIN)
      reached(this.#counters, offset + length)
    } catch (error) {
      this.#counters.failedWrites += 1
      throw error
    } finally {
      this.#changed(offset, length, hold)
    }
  }

  /**
   * Reads pieces that lie apart, `atOnce` of them at once; in the slice they follow each other.
   * @returns with `how.scan`: whether all bytes read are zero; else false
   */
  async readPieces(pieces: readonly Range[], into: Slice, atOnce: number, how?: ReadHow): Promise<boolean> {
    while (this.#flow.gate !== undefined) await this.#flow.gate
    const driver = this.#driver
    if (driver.readPieces === undefined || !areWhole(pieces, this.#driver)) {
      let zero = true
      await eachPiece(pieces, into, atOnce, async (offset, slice) => {
        if (!(await this.read(offset, slice, how))) zero = false
      })
      return how?.scan === true && zero
    }
    this.#counters.reads += pieces.length
    this.#counters.readBytes += into.length
    this.#flow.enter()
    try {
      return await driver.readPieces(pieces, into, atOnce, how)
    } catch (error) {
      this.#counters.failedReads += 1
      throw error
    } finally {
      this.#flow.leave()
    }
  }

  /** Writes pieces that lie apart, `atOnce` of them at once; in the slice they follow each other. */
  async writePieces(pieces: readonly Range[], from: Slice, atOnce: number): Promise<void> {
    while (this.#flow.gate !== undefined) await this.#flow.gate
    const driver = this.#driver
    const plain = this.#options.detectZeroes === 'off' && this.#watchers.before === NOBODY
    if (driver.writePieces === undefined || !plain || !areWhole(pieces, this.#driver))
      return eachPiece(pieces, from, atOnce, (offset, slice) => this.write(offset, slice))
    this.#checkChange('write', 0, 0)
    this.#counters.writes += pieces.length
    this.#counters.writeBytes += from.length
    let hold: RangeHold | undefined
    this.#flow.enter()
    try {
      if (driver.limits.requestAlign > 1) hold = await this.#ranges.acquireAll(pieces)
      await driver.writePieces(pieces, from, atOnce)
      for (const { offset, length } of pieces) reached(this.#counters, offset + length)
    } catch (error) {
      this.#counters.failedWrites += 1
      throw error
    } finally {
      if (hold !== undefined) this.#ranges.release(hold)
      for (const { offset, length } of pieces) this.#tell(offset, length)
      this.#flow.leave()
    }
  }

  /** Makes the range read as zeroes. `how.unmap` counts only on a node opened with discard=unmap. */
  async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    let told = NOBODY
    while (this.#flow.gate !== undefined || told !== this.#watchers.before)
      told = await this.#announce('zero', offset, length, told)
    this.#checkChange('zero', offset, length)
    if (length === 0) return
    this.#counters.zeroes += 1
    this.#counters.zeroBytes += length
    const unmap = how.unmap && this.#options.discard === 'unmap'
    let hold: RangeHold | undefined
    this.#flow.enter()
    try {
      if (this.#driver.limits.requestAlign > 1) hold = await this.#lock(offset, length)
      await this.#driver.zero(offset, length, unmap === how.unmap ? how : { ...how, unmap })
      reached(this.#counters, offset + length)
    } catch (error) {
      // A refused fast zero is an answer, not a failure of the storage.
      if (!(error instanceof IoError && error.errno === ENOTSUP && how.fast)) this.#counters.failedWrites += 1
      throw error
    } finally {
      this.#changed(offset, length, hold)
    }
  }

  /** The contents become undefined. Does nothing on a node opened with discard=ignore or on storage without discard. */
  async discard(offset: number, length: number): Promise<void> {
    let told = NOBODY
    const ignored = () => this.#options.discard === 'ignore'
    while (this.#flow.gate !== undefined || (told !== this.#watchers.before && !ignored()))
      told = await this.#announce('discard', offset, length, told)
    this.#checkChange('discard', offset, length)
    if (length === 0 || ignored()) return
    this.#counters.discards += 1
    this.#counters.discardBytes += length
    let hold: RangeHold | undefined
    this.#flow.enter()
    try {
      if (this.#driver.limits.requestAlign > 1) hold = await this.#lock(offset, length)
      await this.#driver.discard(offset, length)
    } catch (error) {
      if (!(error instanceof IoError && error.errno === ENOTSUP)) throw error
    } finally {
      this.#changed(offset, length, hold)
    }
  }

  /** The first extent at `offset`, clipped to the range. `length` > 0. */
  async status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    // What was written by borrowers is not known before they are back; somebody may drain the node meanwhile.
    while (this.#flow.gate !== undefined || !this.#loans.none)
      await (this.#flow.gate ?? this.#loans.returned())
    this.#check('status', offset, length)
    this.#flow.enter()
    try {
      return clipped(await this.#driver.status(offset, length, how), offset, length)
    } finally {
      this.#flow.leave()
    }
  }

  /** Everything completed before is durable when this resolves. */
  async flush(): Promise<void> {
    while (this.#flow.gate !== undefined) await this.#flow.gate
    this.#counters.flushes += 1
    this.#flow.enter()
    try {
      await this.#driver.flush()
    } catch (error) {
      this.#counters.failedFlushes += 1
      throw error
    } finally {
      this.#flow.leave()
    }
  }

  /** Something done with the driver itself, as a request is: it waits in drained sections, and they wait for it. */
  async withDriver<T>(work: (driver: BlockDriver) => Promise<T>): Promise<T> {
    while (this.#flow.gate !== undefined) await this.#flow.gate
    this.#flow.enter()
    try {
      return await work(this.#driver)
    } finally {
      this.#flow.leave()
    }
  }

  /**
   * Changes the length, bytes. New space reads as zeroes. Waits for requests in flight.
   * @throws IoError ENOTSUP where the driver cannot
   */
  async resize(length: number, how?: ResizeHow): Promise<void> {
    if (this.readOnly) throw new IoError(EPERM, 'resize', this.name, 0, length)
    if (!Number.isSafeInteger(length) || length < 0) throw new IoError(EINVAL, 'resize', this.name, 0, length)
    if (this.#driver.resize === undefined) throw new IoError(ENOTSUP, 'resize', this.name, 0, length)
    using _drained = await this.drain()
    using _request = this.#flow.request()
    await this.#driver.resize(length, how)
  }

  /**
   * New requests wait; resolves when none is in flight. Ends with the returned object's dispose; nests.
   * @param signal  gives up waiting: requests go on, and Cancelled is thrown
   */
  drain(signal?: AbortSignal): Promise<Disposable> {
    const drained = this.#flow.drain(signal)
    this.#loans.callBack()
    return drained
  }

  /**
   * The listener hears of every range whose content may have changed (write, zero, discard): once, when the request
   * has ended, well or badly, before its caller learns of it. So whoever clears a bit before reading the range sees
   * the bit set again when a change crossed the read.
   */
  addDirtyListener(listener: DirtyListener): Disposable {
    this.#loans.callBack()
    return this.#watchers.addAfter(listener)
  }

  /**
   * The hook is awaited before a change of the range is submitted; when it rejects, the change fails with its error. A change
   * it is told of is not in flight yet, so the hook may use this node, also while somebody drains it. One that waits already
   * when the hook comes is announced to it too; one in flight is not: who needs that adds it in a drained section.
   */
  addBeforeWrite(hook: BeforeWrite): Disposable {
    this.#loans.callBack()
    return this.#watchers.addBefore(hook)
  }

  /**
   * Lends the file under the node, for plain reads and writes; in this node's eyes that is one request in flight. What ranges
   * lock is not: the engine itself keeps unaligned writes of one file apart from others.
   * @returns undefined where there is no such file, or somebody has to hear of each request
   */
  lend(borrower: Borrower): Loan | undefined {
    const noticed = !this.#watchers.none || !this.bitmaps.empty
    if (noticed || this.#flow.gate !== undefined || this.#options.detectZeroes !== 'off') return undefined
    const below = this.#driver.lend?.(borrower)
    if (below === undefined) return undefined
    this.#flow.enter()
    this.#loans.begin(borrower)
    const back = (begun: Range | undefined) => {
      below.back(begun)
      if (begun !== undefined) this.#tell(begun.offset, begun.length)
      this.#loans.end(borrower)
      this.#flow.leave()
    }
    return { lent: below.lent, back }
  }

  /** For the graph, inside a drained section: a reopened driver takes the place of the old one. */
  swap(driver: BlockDriver, options: NodeOptions): void {
    this.#driver = driver
    this.#options = options
  }

  #check(op: IoOp, offset: number, length: number): void {
    const limit = this.size()
    if (offset >= 0 && length >= 0 && offset + length <= limit && Number.isSafeInteger(offset)) return
    throw new IoError(EINVAL, op, this.name, offset, length)
  }

  #checkChange(op: IoOp, offset: number, length: number): void {
    if (this.#options.readOnly) throw new IoError(EPERM, op, this.name, offset, length)
    this.#check(op, offset, length)
  }

  /**
   * One step of a change on its way in: it waits until nobody drains the node, then tells whoever wants to know before it.
   * @returns who has been told
   */
  async #announce(
    op: IoOp,
    offset: number,
    length: number,
    told: readonly BeforeWrite[],
  ): Promise<readonly BeforeWrite[]> {
    if (this.#flow.gate !== undefined) {
      await this.#flow.gate
      return told
    }
    this.#checkChange(op, offset, length)
    const hooks = this.#watchers.before
    try {
      if (length > 0) for (const hook of hooks) await hook(offset, length)
    } catch (error) {
      this.#counters.failedWrites += 1
      throw error
    }
    return hooks
  }

  #lock(offset: number, length: number): RangeHold | Promise<RangeHold> {
    return this.#ranges.acquireAligned(offset, length, this.#driver.limits.requestAlign)
  }

  #changed(offset: number, length: number, hold: RangeHold | undefined): void {
    if (hold !== undefined) this.#ranges.release(hold)
    this.#tell(offset, length)
    this.#flow.leave()
  }

  #tell(offset: number, length: number): void {
    this.bitmaps.mark(offset, length)
    this.#watchers.tell(offset, length)
  }
}

const PLAIN: WriteHow = {}
