// SPDX-License-Identifier: Apache-2.0
// A file that an image is read from: small parts of it as bytes, large ones into slots. Used by sources of files.

import type { FilePart } from '../../native/stream-types.js'
import type { FileFacts, FileId, IoEngine, PieceFailure, Range } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import type { Parsed } from '../../protocol/migration/bytes.js'
import { EIO } from '../common/errno.js'
import { IoError } from '../errors.js'
import type { Receive } from './input.js'
import type { DirectReading, FilePlace } from './messages.js'
import { namedAs } from './named.js'
import type { Slots } from './slots.js'

/** First try of a parser, bytes; doubled while it needs more. */
const WINDOW = 4096
/** Extents asked for at once. */
const EXTENTS = 256

/** The same of all names of a file. */
export function identityOf({ device, inode }: Pick<FileFacts, 'device' | 'inode'>): string {
  return `${device}:${inode}`
}

/** Of a file, the part in the page cache from which on it is read from there. */
const MOSTLY = 0.75

/** @returns the handle or -errno */
async function openPath(engine: IoEngine, path: string, direct: DirectReading): Promise<FileId> {
  if (direct !== 'unless-cached') return await engine.open(path, { write: false, direct })
  const file = await engine.open(path, { write: false, direct: false })
  if (file < 0 || (await isInCache(engine, file))) return file
  await engine.close(file)
  return await engine.open(path, { write: false, direct: true })
}

async function isInCache(engine: IoEngine, file: FileId): Promise<boolean> {
  const facts = await engine.stat(file)
  if (typeof facts === 'number' || facts.kind !== 'file' || facts.direct) return false
  return (await engine.cached(file)) >= Math.min(facts.size, facts.allocated) * MOSTLY
}

export class FileBytes {
  readonly name: string
  /** Bytes. */
  readonly length: number
  /** Bytes of storage it occupies. */
  readonly allocated: number
  /** A block device is longer than what was written to it. */
  readonly isDevice: boolean
  /** Most of it is in the page cache, where reading finds it. */
  readonly inCache: boolean
  /** See identityOf(). */
  readonly identity: string
  readonly #slots: Slots
  readonly #file: FileId

  private constructor(slots: Slots, file: FileId, name: string, facts: FileFacts, inCache: boolean) {
    this.#slots = slots
    this.#file = file
    this.name = name
    this.length = facts.size
    this.allocated = facts.allocated
    this.inCache = inCache
    this.isDevice = facts.kind === 'block'
    this.identity = identityOf(facts)
  }

  /** @throws IoError, FormatError for what is no file */
  static async open(
    slots: Slots,
    place: FilePlace,
    direct: DirectReading,
    fdTaken: (fd: number) => void,
  ): Promise<FileBytes> {
    const { engine } = slots
    const name = place.kind === 'fd' ? `fd ${place.fd}` : place.path
    const file =
      place.kind === 'fd' ? await engine.adopt(place.fd) : await openPath(engine, place.path, direct)
    if (place.kind === 'fd') fdTaken(place.fd)
    if (file < 0) throw new IoError(-file, 'open', name)
    const facts = await engine.stat(file)
    if (typeof facts === 'number' || (facts.kind !== 'file' && facts.kind !== 'block')) {
      await engine.close(file)
      if (typeof facts === 'number') throw new IoError(-facts, 'stat', name)
      throw new FormatError(`${name} is neither a file nor a block device`)
    }
    return new FileBytes(slots, file, name, facts, await isInCache(engine, file))
  }

  /** Runs a parser at an offset of the file. @throws FormatError when the file ends too early */
  async parse<T>(
    offset: number,
    parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined,
    what: string,
  ): Promise<Parsed<T>> {
    for (let window = WINDOW; ; window *= 2) {
      const length = Math.min(window, this.length - offset)
      const bytes = length > 0 ? await this.bytes(offset, length) : new Uint8Array()
      const parsed = namedAs(this.name, () => parse(bytes, offset))
      if (parsed !== undefined) return parsed
      if (length < window) throw new FormatError(`${this.name} ends at offset ${this.length}, within ${what}`)
    }
  }

  /** A copy of a part that is there. */
  async bytes(offset: number, length: number): Promise<Uint8Array> {
    const copy = new Uint8Array(length)
    const slot = await this.#slots.take('gather')
    try {
      for (let done = 0; done < length; ) {
        const step = Math.min(length - done, this.#slots.size)
        const result = await this.#slots.engine.read(this.#file, offset + done, step, slot, 0)
        if (result !== step)
          throw new IoError(result < 0 ? -result : EIO, 'read', this.name, offset + done, step)
        copy.set(this.#slots.bytes(slot).subarray(0, step), done)
        done += step
      }
    } finally {
      this.#slots.give(slot)
    }
    return copy
  }

  /** Into the beginning of a slot, one piece behind the other. */
  async readPieces(pieces: readonly Range[], slot: number, atOnce: number): Promise<void> {
    const result = await this.#slots.engine.readPieces(this.#file, pieces, slot, 0, atOnce)
    if (typeof result === 'number') return
    const { offset, length } = pieces[result.piece] ?? { offset: 0, length: 0 }
    throw new IoError(-result.result, 'read', this.name, offset, length)
  }

  /** Parts over a connection, see IoEngine.sendFile(). @returns as it does, @throws IoError when it is the file that failed */
  async sendTo(
    stream: FileId,
    parts: readonly FilePart[],
    slot: number,
    slotOffset: number,
  ): Promise<number> {
    return this.#sent(await this.#slots.engine.sendFile(stream, this.#file, parts, slot, slotOffset), parts)
  }

  /**
   * Pages as records of a migration stream, see IoEngine.sendFilePages(). @returns as it does, @throws as sendTo()
   * @param place  where the block begins in the file, bytes
   */
  async sendPagesTo(
    stream: FileId,
    ranges: readonly Range[],
    place: number,
    pageSize: number,
    first: Uint8Array,
  ): Promise<number> {
    const { engine } = this.#slots
    const result = await engine.sendFilePages(stream, ranges, pageSize, this.#file, place, first)
    return this.#sent(result, ranges, place)
  }

  #sent(result: number | PieceFailure, parts: readonly Range[], place = 0): number {
    if (typeof result === 'number') return result
    const { offset, length } = parts[result.piece] ?? { offset: 0, length: 0 }
    throw new IoError(-result.result, 'read', this.name, place + offset, length)
  }

  /**
   * Has all of it at a place of another file, without a byte being copied.
   * @returns whether the file system can do that; otherwise nothing is said of what is there now
   */
  async shareWith(file: FileId, offset: number): Promise<boolean> {
    return (await this.#slots.engine.reflink(this.#file, 0, file, offset, this.length)) >= 0
  }

  /**
   * Parts that may hold data, whole multiples of `unit`; holes are left out.
   * @param most  longest part, bytes; none reaches across a multiple of it
   */
  async *data(unit: number, most: number): AsyncGenerator<Range> {
    let told = 0
    for (let at = 0; at < this.length; ) {
      const list = await this.#slots.engine.extents(this.#file, at, this.length - at, EXTENTS)
      if (typeof list === 'number') throw new IoError(-list, 'status', this.name, at, this.length - at)
      let end = at
      for (let index = 0; index + 2 < list.length; index += 3) {
        const [offset = 0, length = 0, kind = 0] = list.subarray(index, index + 3)
        end = Math.min(this.length, offset + length)
        if (kind === 0) continue
        const last = Math.min(this.length, Math.ceil(end / unit) * unit)
        for (let start = Math.max(told, Math.floor(offset / unit) * unit); start < last; start = told) {
          told = Math.min(last, (Math.floor(start / most) + 1) * most)
          yield { offset: start, length: told - start }
        }
      }
      if (end <= at) throw new IoError(EIO, 'status', this.name, at, this.length - at)
      at = end
    }
  }

  /** The file from an offset on, for an Input. */
  receive(offset: number): Receive {
    let at = offset
    return async (slot, wanted) => {
      const from = at
      const length = Math.max(0, Math.min(wanted, this.length - from))
      at += length
      if (length === 0) return 0
      const result = await this.#slots.engine.read(this.#file, from, length, slot, 0)
      // Somebody cut the file.
      return result >= 0 && result < length ? -EIO : result
    }
  }

  async close(): Promise<void> {
    await this.#slots.engine.close(this.#file)
  }
}
