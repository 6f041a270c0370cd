// SPDX-License-Identifier: Apache-2.0
// file and host_device: a regular file or a device of the host. The leaf under almost every disk.
// Block status of regular files comes from the extent cache. Size and extents are what we believe while somebody uses
// the node: they change by our own requests only. Between two users other programs may change the file: freshen().

import {
  type FileFacts,
  type FileId,
  type IoEngine,
  type PieceFailure,
  type Range,
  READ_ZERO,
  ZeroRung,
} from '../../../../native/types.js'
import { EIO, ENOTSUP } from '../../../common/errno.js'
import { CommandError, IoError } from '../../../errors.js'
import {
  type BlockDriver,
  type Can,
  type Extent,
  type Limits,
  PERMISSIONS,
  type Permissions,
  type ReadHow,
  type ResizeHow,
  type Slice,
  type WriteHow,
  type ZeroHow,
} from '../driver.js'
import { ExtentCache, lyingThere } from '../extents.js'
import { ImageLock } from '../image-lock.js'
import type { Borrower, Loan } from '../loans.js'
import { type Preallocate, preallocate } from '../preallocate.js'

export interface FileOptions {
  /** As it was given. */
  readonly path: string
  readonly type: 'file' | 'host_device'
  /** Name of the node, for errors. */
  readonly name: string
  readonly readOnly: boolean
  readonly noFlush: boolean
  readonly locking: 'auto' | 'on' | 'off'
  readonly forceShare: boolean
}

const SCAN = { scan: true }
const NO_SCAN = { scan: false }
/** Zeroes and discards of whole blocks of this size leave no edges to be written, bytes. */
const BLOCK = 4096

export class FileDriver implements BlockDriver {
  readonly type: 'file' | 'host_device'
  readonly limits: Limits
  readonly file: FileId
  readonly #engine: IoEngine
  readonly #options: FileOptions
  /** Facts of the moment it was opened. */
  readonly #facts: FileFacts
  readonly #lock: ImageLock
  /** Undefined for devices: they cannot tell. */
  readonly #extents: ExtentCache | undefined
  #size: number
  /** How often it grew, or was made as long as somebody wanted. */
  #grown = 0
  #resized = 0
  /** Zeroing had to write: a fast zero is no longer promised. */
  #slowZero = false
  #slowUnmap = false

  /** @param file  an open handle, closed by close() */
  constructor(engine: IoEngine, file: FileId, facts: FileFacts, options: FileOptions) {
    this.type = options.type
    this.file = file
    this.#engine = engine
    this.#options = options
    this.#facts = facts
    this.#size = facts.size
    this.#lock = new ImageLock(engine, file, options.path)
    this.limits = {
      requestAlign: facts.requestAlign,
      maxTransfer: engine.slotSize,
      zeroAlign: Math.max(BLOCK, facts.requestAlign),
    }
    if (facts.kind === 'file') this.#extents = new ExtentCache((...range) => this.#queryExtents(...range))
  }

  get can(): Can {
    return {
      write: !this.#options.readOnly,
      resize: this.#facts.kind === 'file',
      fastZero: !this.#slowZero,
      unmap: !this.#slowUnmap,
    }
  }

  length(): number {
    return this.#size
  }

  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const length = into.length
    const scan = how?.scan === true
    const result = await this.#engine.read(
      this.file,
      offset,
      length,
      into.slot,
      into.offset,
      scan ? SCAN : NO_SCAN,
    )
    if (result < 0) throw new IoError(-result, 'read', this.#options.name, offset, length)
    const zero = result >= READ_ZERO
    const got = zero ? result - READ_ZERO : result
    if (got === length) return scan && zero
    // The end of the file: the rest of its last sector reads as zero. Before it, somebody cut the file under us.
    if (offset + got < this.#size) throw new IoError(EIO, 'read', this.#options.name, offset, length)
    this.#engine.slotBytes(into.slot).fill(0, into.offset + got, into.offset + length)
    return scan && (zero || got === 0)
  }

  async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    const length = from.length
    this.#extents?.wrote(offset, length)
    const result = await this.#engine.write(this.file, offset, length, from.slot, from.offset)
    this.#extents?.wrote(offset, length)
    if (result < 0) throw new IoError(-result, 'write', this.#options.name, offset, length)
    this.#reached(offset + length)
    if (how.fua === true) await this.flush()
  }

  async readPieces(pieces: readonly Range[], into: Slice, atOnce: number, how?: ReadHow): Promise<boolean> {
    const options = how?.scan === true ? SCAN : NO_SCAN
    const result = await this.#engine.readPieces(this.file, pieces, into.slot, into.offset, atOnce, options)
    if (typeof result !== 'number') throw this.#failed('read', pieces, result)
    return result >= READ_ZERO
  }

  async writePieces(pieces: readonly Range[], from: Slice, atOnce: number): Promise<void> {
    for (const { offset, length } of pieces) this.#extents?.wrote(offset, length)
    const result = await this.#engine.writePieces(this.file, pieces, from.slot, from.offset, atOnce)
    for (const { offset, length } of pieces) this.#extents?.wrote(offset, length)
    if (typeof result !== 'number') throw this.#failed('write', pieces, result)
    for (const { offset, length } of pieces) this.#reached(offset + length)
  }

  #failed(op: 'read' | 'write', pieces: readonly Range[], failure: PieceFailure): IoError {
    const { offset, length } = pieces[failure.piece] ?? { offset: 0, length: 0 }
    return new IoError(-failure.result, op, this.#options.name, offset, length)
  }

  async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    this.#extents?.forget(offset, length)
    const result = await this.#engine.zero(this.file, offset, length, how)
    this.#extents?.forget(offset, length)
    if (result === ZeroRung.written) this.#slowZero = true
    if (result === -ENOTSUP) this.#slowZero = true
    if (result < 0) throw new IoError(-result, 'zero', this.#options.name, offset, length)
    if (how.unmap && result !== ZeroRung.hole) this.#slowUnmap = true
    this.#reached(offset + length)
  }

  async discard(offset: number, length: number): Promise<void> {
    const inside = Math.min(length, this.#size - offset)
    if (inside <= 0) return
    this.#extents?.forget(offset, inside)
    const result = await this.#engine.discard(this.file, offset, inside)
    this.#extents?.forget(offset, inside)
    if (result < 0) throw new IoError(-result, 'discard', this.#options.name, offset, length)
  }

  async status(offset: number, length: number): Promise<Extent> {
    if (offset >= this.#size) return { offset, length, kind: 'zero', allocated: false }
    if (this.#extents === undefined) return { offset, length, kind: 'data', allocated: true, host: offset }
    return lyingThere(this.#extents.known(offset) ?? (await this.#extents.at(offset, this.#size)))
  }

  lend(borrower: Borrower): Loan {
    const back = () => {
      const { from, to } = borrower.counts()
      if (to > from) this.#extents?.forget(from, to - from)
    }
    return { lent: { file: this.file, length: this.#size }, back }
  }

  async flush(): Promise<void> {
    if (this.#options.noFlush || this.#options.readOnly) return
    const result = await this.#engine.flush(this.file, true)
    if (result < 0) throw new IoError(-result, 'flush', this.#options.name)
  }

  async resize(length: number, { noCow = false, preallocate: how }: ResizeHow = {}): Promise<void> {
    const before = this.#size
    if (this.#facts.kind !== 'file') {
      if (length <= before) return
      throw new CommandError(
        how === undefined
          ? 'Cannot grow device files'
          : `Preallocation mode '${how.mode}' unsupported for this non-regular file`,
      )
    }
    if (how?.mode === 'metadata') throw new CommandError('Unsupported preallocation mode: metadata')
    const from = Math.min(length, before)
    this.#extents?.forget(from, Number.MAX_SAFE_INTEGER - from)
    const result =
      noCow && length === 0
        ? await this.#engine.emptyWithoutCow(this.file)
        : await this.#engine.truncate(this.file, length)
    this.#extents?.forget(from, Number.MAX_SAFE_INTEGER - from)
    if (result < 0) throw new IoError(-result, 'resize', this.#options.name, 0, length)
    this.#size = length
    this.#resized++
    if (how !== undefined && length > before) await this.#preallocate(before, length, how)
  }

  /** What cannot be had all is given back. */
  async #preallocate(from: number, end: number, how: Preallocate): Promise<void> {
    try {
      await preallocate(this, from, end - from, how, true)
    } catch (error) {
      await this.resize(from).catch(() => undefined)
      throw error
    }
  }

  async grow(offset: number, length: number): Promise<void> {
    if (this.#facts.kind !== 'file') throw new IoError(ENOTSUP, 'resize', this.#options.name, offset, length)
    const from = Math.min(offset, this.#size)
    this.#extents?.forget(from, Number.MAX_SAFE_INTEGER - from)
    const result = await this.#engine.grow(this.file, offset, length)
    this.#extents?.forget(from, Number.MAX_SAFE_INTEGER - from)
    if (result < 0) throw new IoError(-result, 'resize', this.#options.name, offset, length)
    this.#reached(result)
  }

  /** @throws CommandError when another program or node uses the file in a way that excludes this */
  async lock(permissions: Permissions | undefined): Promise<void> {
    if (this.#options.locking === 'off') return
    const shared = this.#options.forceShare && permissions !== undefined
    await this.#lock.apply(
      shared ? { use: permissions.use, share: PERMISSIONS } : permissions,
      this.#options.locking === 'on',
    )
  }

  async takeOver(previous: BlockDriver): Promise<void> {
    if (!(previous instanceof FileDriver)) return
    const [now, before] = [this.#facts, previous.#facts]
    if (now.device !== before.device || now.inode !== before.inode)
      throw new CommandError(`'${this.#options.path}' is another file than the one that is open`)
    // Of a file we did not write to, the size is what it was when it was opened last: others may have changed it since.
    if (!previous.#options.readOnly) this.#size = previous.#size
    if (this.#options.locking !== 'off') await this.#lock.copyFrom(previous.#lock)
  }

  async freshen(): Promise<void> {
    const [grown, resized] = [this.#grown, this.#resized]
    const facts = await this.#engine.stat(this.file)
    if (typeof facts === 'number') throw new IoError(-facts, 'stat', this.#options.name)
    // We may have changed it after it was looked at.
    if (resized === this.#resized)
      this.#size = grown === this.#grown ? facts.size : Math.max(this.#size, facts.size)
    this.#extents?.forget(0, Number.MAX_SAFE_INTEGER)
  }

  #reached(end: number): void {
    if (end <= this.#size) return
    this.#size = end
    this.#grown++
  }

  async facts(): Promise<FileFacts | undefined> {
    const facts = await this.#engine.stat(this.file)
    if (typeof facts === 'number') throw new IoError(-facts, 'stat', this.#options.name)
    return facts
  }

  async close(): Promise<void> {
    const result = await this.#engine.close(this.file)
    if (result < 0) throw new IoError(-result, 'close', this.#options.name)
  }

  async #queryExtents(offset: number, length: number, limit: number): Promise<Float64Array> {
    const list = await this.#engine.extents(this.file, offset, length, limit)
    if (typeof list === 'number') throw new IoError(-list, 'status', this.#options.name, offset, length)
    return list
  }
}
