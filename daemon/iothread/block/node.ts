// SPDX-License-Identifier: Apache-2.0
// A node: one layer of a disk in the graph, and the one checked door to it. Jobs, exports and parent nodes call
// BlockNode; only BlockNode calls a driver. It keeps range, read-only state, statistics, the number of requests in
// flight, drained sections, the range lock and dirty marks. The graph makes nodes and swaps their drivers.
//
// Happy path: counting and one await. Nothing is allocated per request unless somebody asked for hooks or the
// storage needs aligned requests.

import type { Range } from '../../../native/types.js'
import { EINVAL, ENOTSUP, EPERM } from '../../common/errno.js'
import { Cancelled, IoError, type IoOp } from '../../errors.js'
import type { NodeStats } from '../messages.js'
import { NodeBitmaps } from './bitmaps/node-bitmaps.js'
import type { BlockDriver, Extent, ReadHow, Slice, StatusHow, WriteHow, ZeroHow } from './driver.js'
import { type Borrower, type Loan, Loans } from './loans.js'
import type { NodeOptions } from './options.js'
import { eachPiece } from './pieces.js'
import { type RangeHold, RangeLock } from './range-lock.js'

/** Sizes are told to users in sectors of this many bytes; the last one may be partial in storage. */
export const SECTOR = 512

export type DirtyListener = (offset: number, length: number) => void
export type BeforeWrite = (offset: number, length: number) => Promise<void>
/** Whether the bytes of a slice are all zero. */
export type ZeroScan = (slice: Slice) => boolean

type Counters = { -readonly [K in keyof NodeStats]: NodeStats[K] }

export class BlockNode {
  readonly name: string
  readonly bitmaps: NodeBitmaps
  readonly #isZero: ZeroScan
  readonly #counters: Counters = {
    reads: 0,
    readBytes: 0,
    writes: 0,
    writeBytes: 0,
    zeroes: 0,
    zeroBytes: 0,
    discards: 0,
    discardBytes: 0,
    flushes: 0,
    failedReads: 0,
    failedWrites: 0,
    failedFlushes: 0,
    writeHighest: 0,
  }
  readonly #loans = new Loans(this.#counters)
  readonly #ranges = new RangeLock()
  readonly #dirtyListeners: DirtyListener[] = []
  /** Replaced when it changes: whoever was told by an older list has not told everybody. */
  #beforeWrite: readonly BeforeWrite[] = NOBODY
  #driver: BlockDriver
  #options: NodeOptions
  #inFlight = 0
  /** Drained sections that are open. New requests wait for `#gate` while there is one. */
  #drains = 0
  #gate: Promise<void> | undefined
  #openGate: (() => void) | undefined
  /** Called when the last request in flight ends. */
  #quiet: (() => void)[] = []

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
    while (this.#gate !== undefined) await this.#gate
    this.#check('read', offset, into.length)
    this.#counters.reads += 1
    this.#counters.readBytes += into.length
    this.#inFlight += 1
    try {
      return await this.#driver.read(offset, into, how)
    } catch (error) {
      this.#counters.failedReads += 1
      throw error
    } finally {
      this.#leave()
    }
  }

  async write(offset: number, from: Slice, how?: WriteHow): Promise<void> {
    const length = from.length
    let told = NOBODY
    while (this.#gate !== undefined || told !== this.#beforeWrite)
      told = await this.#announce('write', offset, length, told)
    this.#checkChange('write', offset, length)
    const plain = how?.fua !== true && how?.below !== true
    if (this.#options.detectZeroes !== 'off' && plain && this.#isZero(from)) {
      return this.zero(offset, length, { unmap: this.#options.detectZeroes === 'unmap', fast: false })
    }
    this.#counters.writes += 1
    this.#counters.writeBytes += length
    let hold: RangeHold | undefined
    this.#inFlight += 1
    try {
      if (this.#driver.limits.requestAlign > 1) hold = await this.#lock(offset, length)
      await this.#driver.write(offset, from, how ?? PLAIN)
      this.#reached(offset + length)
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
    while (this.#gate !== undefined) await this.#gate
    const driver = this.#driver
    if (driver.readPieces === undefined || !this.#whole(pieces)) {
      let zero = true
      await eachPiece(pieces, into, atOnce, async (offset, slice) => {
        if (!(await this.read(offset, slice, how))) zero = false
      })
      return how?.scan === true && zero
    }
    this.#counters.reads += pieces.length
    this.#counters.readBytes += into.length
    this.#inFlight += 1
    try {
      return await driver.readPieces(pieces, into, atOnce, how)
    } catch (error) {
      this.#counters.failedReads += 1
      throw error
    } finally {
      this.#leave()
    }
  }

  /** Writes pieces that lie apart, `atOnce` of them at once; in the slice they follow each other. */
  async writePieces(pieces: readonly Range[], from: Slice, atOnce: number): Promise<void> {
    while (this.#gate !== undefined) await this.#gate
    const driver = this.#driver
    const plain = this.#options.detectZeroes === 'off' && this.#beforeWrite === NOBODY
    if (driver.writePieces === undefined || !plain || !this.#whole(pieces))
      return eachPiece(pieces, from, atOnce, (offset, slice) => this.write(offset, slice))
    this.#checkChange('write', 0, 0)
    this.#counters.writes += pieces.length
    this.#counters.writeBytes += from.length
    let hold: RangeHold | undefined
    this.#inFlight += 1
    try {
      // One hold from the first to the last of them: being shared, it keeps nobody waiting but unaligned writes.
      if (driver.limits.requestAlign > 1) hold = await this.#lockAll(pieces)
      await driver.writePieces(pieces, from, atOnce)
      for (const { offset, length } of pieces) this.#reached(offset + length)
    } catch (error) {
      this.#counters.failedWrites += 1
      throw error
    } finally {
      if (hold !== undefined) this.#ranges.release(hold)
      for (const { offset, length } of pieces) this.#tell(offset, length)
      this.#leave()
    }
  }

  /** Makes the range read as zeroes. `how.unmap` counts only on a node opened with discard=unmap. */
  async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    let told = NOBODY
    while (this.#gate !== undefined || told !== this.#beforeWrite)
      told = await this.#announce('zero', offset, length, told)
    this.#checkChange('zero', offset, length)
    if (length === 0) return
    this.#counters.zeroes += 1
    this.#counters.zeroBytes += length
    const unmap = how.unmap && this.#options.discard === 'unmap'
    let hold: RangeHold | undefined
    this.#inFlight += 1
    try {
      if (this.#driver.limits.requestAlign > 1) hold = await this.#lock(offset, length)
      await this.#driver.zero(offset, length, unmap === how.unmap ? how : { ...how, unmap })
      this.#reached(offset + length)
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
    while (this.#gate !== undefined || (told !== this.#beforeWrite && !ignored()))
      told = await this.#announce('discard', offset, length, told)
    this.#checkChange('discard', offset, length)
    if (length === 0 || ignored()) return
    this.#counters.discards += 1
    this.#counters.discardBytes += length
    let hold: RangeHold | undefined
    this.#inFlight += 1
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
    while (this.#gate !== undefined) await this.#gate
    // What was written meanwhile is not known before.
    if (!this.#loans.none) await this.#loans.returned()
    this.#check('status', offset, length)
    this.#inFlight += 1
    try {
      const extent = await this.#driver.status(offset, length, how)
      const end = Math.min(extent.offset + extent.length, offset + length)
      if (extent.offset === offset && extent.offset + extent.length === end) return extent
      return clipped(extent, offset, end)
    } finally {
      this.#leave()
    }
  }

  /** Everything completed before is durable when this resolves. */
  async flush(): Promise<void> {
    while (this.#gate !== undefined) await this.#gate
    this.#counters.flushes += 1
    this.#inFlight += 1
    try {
      await this.#driver.flush()
    } catch (error) {
      this.#counters.failedFlushes += 1
      throw error
    } finally {
      this.#leave()
    }
  }

  /** Something done with the driver itself, as a request is: it waits in drained sections, and they wait for it. */
  async withDriver<T>(work: (driver: BlockDriver) => Promise<T>): Promise<T> {
    while (this.#gate !== undefined) await this.#gate
    this.#inFlight += 1
    try {
      return await work(this.#driver)
    } finally {
      this.#leave()
    }
  }

  /**
   * Changes the length, bytes. New space reads as zeroes. Waits for requests in flight.
   * @throws IoError ENOTSUP where the driver cannot
   */
  async resize(length: number): Promise<void> {
    if (this.readOnly) throw new IoError(EPERM, 'resize', this.name, 0, length)
    if (!Number.isSafeInteger(length) || length < 0) throw new IoError(EINVAL, 'resize', this.name, 0, length)
    if (this.#driver.resize === undefined) throw new IoError(ENOTSUP, 'resize', this.name, 0, length)
    using _drained = await this.drain()
    await this.#driver.resize(length)
  }

  /**
   * New requests wait; resolves when none is in flight. Ends with the returned object's dispose; nests.
   * @param signal  gives up waiting: requests go on, and Cancelled is thrown
   */
  async drain(signal?: AbortSignal): Promise<Disposable> {
    this.#drains += 1
    this.#gate ??= new Promise((resolve) => {
      this.#openGate = resolve
    })
    let open = true
    const section: Disposable = {
      [Symbol.dispose]: () => {
        if (!open) return
        open = false
        this.#drains -= 1
        if (this.#drains > 0) return
        this.#openGate?.()
        this.#gate = undefined
      },
    }
    this.#loans.callBack()
    if (this.#inFlight > 0)
      await new Promise<void>((resolve) => {
        this.#quiet.push(resolve)
        signal?.addEventListener('abort', () => resolve(), { once: true })
      })
    if (signal?.aborted) {
      section[Symbol.dispose]()
      throw new Cancelled()
    }
    return section
  }

  /**
   * The listener hears of every range whose content may have changed (write, zero, discard): once, when the request
   * has ended, well or badly, before its caller learns of it. So whoever clears a bit before reading the range sees
   * the bit set again when a change crossed the read.
   */
  addDirtyListener(listener: DirtyListener): Disposable {
    this.#loans.callBack()
    this.#dirtyListeners.push(listener)
    return { [Symbol.dispose]: () => remove(this.#dirtyListeners, listener) }
  }

  /**
   * The hook is awaited before a change of the range is submitted; when it rejects, the change fails with its error. A change
   * it is told of is not in flight yet, so the hook may use this node, also while somebody drains it. One that waits already
   * when the hook comes is announced to it too; one in flight is not: who needs that adds it in a drained section.
   */
  addBeforeWrite(hook: BeforeWrite): Disposable {
    this.#loans.callBack()
    this.#beforeWrite = [...this.#beforeWrite, hook]
    return {
      [Symbol.dispose]: () => {
        const left = this.#beforeWrite.filter((other) => other !== hook)
        this.#beforeWrite = left.length === 0 ? NOBODY : left
      },
    }
  }

  /**
   * Lends the file under the node, for plain reads and writes; in this node's eyes that is one request in flight. What ranges
   * lock is not: the engine itself keeps unaligned writes of one file apart from others.
   * @returns undefined where there is no such file, or somebody has to hear of each request
   */
  lend(borrower: Borrower): Loan | undefined {
    const noticed = this.#dirtyListeners.length + this.#beforeWrite.length > 0 || !this.bitmaps.empty
    if (noticed || this.#gate !== undefined || this.#options.detectZeroes !== 'off') return undefined
    const below = this.#driver.lend?.(borrower)
    if (below === undefined) return undefined
    this.#inFlight += 1
    this.#loans.begin(borrower)
    const back = (begun: Range | undefined) => {
      below.back(begun)
      if (begun !== undefined) this.#tell(begun.offset, begun.length)
      this.#loans.end(borrower)
      this.#leave()
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

  /** All of them are aligned and inside the exact length, so none needs the care that an end needs. */
  #whole(pieces: readonly Range[]): boolean {
    const limit = this.#driver.length()
    const align = this.#driver.limits.requestAlign
    return pieces.every(
      ({ offset, length }) =>
        offset >= 0 && offset + length <= limit && offset % align === 0 && length > 0 && length % align === 0,
    )
  }

  #lockAll(pieces: readonly Range[]): RangeHold | Promise<RangeHold> {
    let start = Number.POSITIVE_INFINITY
    let end = 0
    for (const { offset, length } of pieces) {
      start = Math.min(start, offset)
      end = Math.max(end, offset + length)
    }
    return this.#ranges.acquire(start, end - start, false)
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
    if (this.#gate !== undefined) {
      await this.#gate
      return told
    }
    this.#checkChange(op, offset, length)
    const hooks = this.#beforeWrite
    try {
      if (length > 0) for (const hook of hooks) await hook(offset, length)
    } catch (error) {
      this.#counters.failedWrites += 1
      throw error
    }
    return hooks
  }

  /** Shared for aligned ranges; exclusive, widened to whole units, for those that need a read-modify-write below. */
  #lock(offset: number, length: number): RangeHold | Promise<RangeHold> {
    const align = this.#driver.limits.requestAlign
    const start = Math.floor(offset / align) * align
    const end = Math.ceil((offset + length) / align) * align
    return this.#ranges.acquire(start, end - start, start !== offset || end !== offset + length)
  }

  #reached(end: number): void {
    if (end > this.#counters.writeHighest) this.#counters.writeHighest = end
  }

  #changed(offset: number, length: number, hold: RangeHold | undefined): void {
    if (hold !== undefined) this.#ranges.release(hold)
    this.#tell(offset, length)
    this.#leave()
  }

  #tell(offset: number, length: number): void {
    this.bitmaps.mark(offset, length)
    for (const listener of this.#dirtyListeners) listener(offset, length)
  }

  #leave(): void {
    this.#inFlight -= 1
    if (this.#inFlight > 0 || this.#quiet.length === 0) return
    const waiting = this.#quiet
    this.#quiet = []
    for (const resolve of waiting) resolve()
  }
}

/** The part of an extent from `offset` to `end`. */
function clipped(extent: Extent, offset: number, end: number): Extent {
  const { host } = extent
  const part = { ...extent, offset, length: end - offset }
  return host === undefined ? part : { ...part, host: host + offset - extent.offset }
}

const PLAIN: WriteHow = {}
const NOBODY: readonly BeforeWrite[] = []

function remove<T>(list: T[], item: T): void {
  const index = list.indexOf(item)
  if (index >= 0) list.splice(index, 1)
}
