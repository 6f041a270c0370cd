// SPDX-License-Identifier: Apache-2.0
// nbd: a disk that an NBD server serves. What leaves here fits what was agreed on: alignment, longest payload, flags.
// Block status is what the server tells in base:allocation, remembered as for files: who else writes to the export is not
// seen until the node rests (freshen).
// Durability: without reconnect-delay, a connection lost after unflushed writes makes the next flush fail, since the server
// may have forgotten them. With it the user vouches that the server that comes back is the one that had them.

import type { IoEngine } from '../../../../../native/types.js'
import { hasFlag } from '../../../../../protocol/nbd/agreed.js'
import { allocationState, commandFlags, commands, dirtyState } from '../../../../../protocol/nbd/constants.js'
import { ALLOCATION, DIRTY_BITMAP } from '../../../../../protocol/nbd/contexts.js'
import { EIO, ENOTSUP } from '../../../../common/errno.js'
import { IoError, type IoOp } from '../../../../errors.js'
import type {
  BlockDriver,
  Can,
  DirtyLook,
  Extent,
  Limits,
  ReadHow,
  Slice,
  WriteHow,
  ZeroHow,
} from '../../driver.js'
import { ExtentCache, lyingThere } from '../../extents.js'
import type { HeldRequests } from '../../held.js'
import { type Connection, Lost } from './connection.js'
import type { Link } from './link.js'
import { Refused } from './pending.js'

/** Longest zero, discard or status in one request, bytes: fits 32 bits at any alignment. */
const LONGEST = 2 ** 30
/**
 * Longest payload, bytes. QEMU's server takes fresh memory for each request, whose pages cost more than the request from
 * 1 MiB on: 2 GiB from a cached file took 1.5 s in 1 MiB, 0.74 in 512 KiB, 0.99 in 256 KiB; written 1.2, 0.71, 0.88.
 */
const LONGEST_PAYLOAD = 1 << 19
/** Written where a server has no WRITE_ZEROES. */
const ZEROES = Buffer.alloc(1 << 20)
/** A server that is silent for so long is left by who wants to go, milliseconds: after a cancel, and on closing. */
const CANCEL_SILENCE_MS = 2000
const CLOSE_SILENCE_MS = 5000

export interface NbdOptions {
  /** Name of the node, for errors. */
  readonly name: string
  readonly readOnly: boolean
  readonly noFlush: boolean
  /** What block status is about: base:allocation, or a bitmap whose bits it tells. */
  readonly context: string
}

/** A link and the drivers that use it: two while a node is being reopened. */
export interface SharedLink {
  readonly link: Link
  /** Server and export as users see them. */
  readonly place: string
  users: number
  /** Writes that completed since a flush that worked began. */
  unflushed: boolean
  /** Some of those were on a connection that was lost. */
  doubtful: boolean
}

export class NbdDriver implements BlockDriver {
  readonly type = 'nbd'
  readonly limits: Limits
  readonly can: Can
  readonly shared: SharedLink
  readonly #engine: IoEngine
  readonly #options: NbdOptions
  readonly #held: HeldRequests
  readonly #size: number
  readonly #align: number
  /** Longest payload, bytes, a multiple of the alignment. */
  readonly #most: number
  readonly #extents: ExtentCache | undefined
  readonly #bits: boolean

  constructor(engine: IoEngine, shared: SharedLink, held: HeldRequests, options: NbdOptions) {
    shared.users++
    const { size, flags, blockSizes, contexts } = shared.link.agreed
    this.shared = shared
    this.#engine = engine
    this.#held = held
    this.#options = options
    this.#size = size
    this.#align = blockSizes.minimum
    this.#most = this.#down(Math.min(LONGEST_PAYLOAD, blockSizes.maximumPayload))
    this.limits = {
      requestAlign: blockSizes.minimum,
      maxTransfer: engine.slotSize,
      zeroAlign: blockSizes.preferred,
    }
    this.can = {
      write: !options.readOnly,
      resize: false,
      fastZero: hasFlag(flags, 'SEND_FAST_ZERO'),
      unmap: hasFlag(flags, 'SEND_TRIM') || hasFlag(flags, 'SEND_WRITE_ZEROES'),
    }
    this.#bits = options.context !== ALLOCATION
    if (contexts.length > 0)
      this.#extents = new ExtentCache((offset, length) => this.#askStatus(options.context, offset, length))
  }

  length(): number {
    return this.#size
  }

  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const bytes = this.#bytesOf(into)
    const inside = Math.min(bytes.length, Math.max(0, this.#size - offset))
    bytes.fill(0, inside)
    if (inside === 0) return how?.scan === true
    const data = bytes.subarray(0, inside)
    const zero = await this.#do('read', offset, inside, () => this.#read(offset, data))
    return how?.scan === true && (zero || isZero(data))
  }

  async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    const bytes = this.#bytesOf(from)
    // The rest of the last sector is not the server's.
    const inside = Math.min(bytes.length, Math.max(0, this.#size - offset))
    if (inside === 0) return
    await this.#change('write', offset, inside, (start, end) =>
      this.#write(start, bytes.subarray(start - offset, end - offset), how.fua === true),
    )
  }

  async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    const inside = Math.min(length, Math.max(0, this.#size - offset))
    if (inside === 0) return
    const { flags } = this.shared.link.agreed
    if (how.fast && !hasFlag(flags, 'SEND_FAST_ZERO'))
      throw new IoError(ENOTSUP, 'zero', this.#options.name, offset, length)
    await this.#change('zero', offset, inside, (start, end) => this.#zero(start, end - start, how))
  }

  async discard(offset: number, length: number): Promise<void> {
    if (!hasFlag(this.shared.link.agreed.flags, 'SEND_TRIM'))
      throw new IoError(ENOTSUP, 'discard', this.#options.name, offset, length)
    const start = this.#up(offset)
    const limit = Math.min(offset + length, this.#size)
    // What ends with the export may be unaligned there.
    const end = limit === this.#size ? limit : this.#down(limit)
    if (end <= start) return
    await this.#change('discard', start, end - start, (from, to) =>
      this.#inParts(from, to - from, LONGEST, (at, part) =>
        this.#request({ command: commands.TRIM, flags: 0, offset: at, length: part }),
      ),
    )
  }

  async status(offset: number, length: number): Promise<Extent> {
    if (offset >= this.#size) return { offset, length, kind: 'zero', allocated: false }
    if (this.#extents === undefined) return { offset, length, kind: 'data', allocated: true, host: offset }
    const extent = this.#extents.known(offset) ?? (await this.#extents.at(offset, this.#size))
    // A bit that is set stands where a hole would: it says nothing about zeroes.
    if (this.#bits && extent.kind === 'zero') return { ...extent, kind: 'data', allocated: false }
    return lyingThere(extent)
  }

  /** Of the one bitmap that the server offered; each look asks the server anew. */
  dirty(): DirtyLook | undefined {
    const name = this.shared.link.agreed.contexts.find((context) =>
      context.name.startsWith(DIRTY_BITMAP),
    )?.name
    if (name === undefined) return undefined
    const bits = new ExtentCache((offset, length) => this.#askStatus(name, offset, length))
    return async (offset, length) => {
      const extent = await bits.at(offset, Math.min(offset + length, this.#size))
      return { dirty: extent.kind === 'zero', end: extent.offset + extent.length }
    }
  }

  async flush(): Promise<void> {
    if (this.#options.noFlush || this.#options.readOnly) return
    const { shared } = this
    if (shared.doubtful) {
      shared.doubtful = false
      throw new IoError(EIO, 'flush', this.#options.name)
    }
    if (!hasFlag(shared.link.agreed.flags, 'SEND_FLUSH')) return
    const before = shared.unflushed
    shared.unflushed = false
    try {
      await this.#do('flush', 0, 0, () =>
        this.#request({ command: commands.FLUSH, flags: 0, offset: 0, length: 0 }),
      )
    } catch (error) {
      shared.unflushed ||= before
      throw error
    }
  }

  /** While the node is being reopened the new driver goes on with the same connections. */
  release(): void {
    this.shared.link.hurry(CLOSE_SILENCE_MS, this.shared.users === 1)
  }

  hurry(): void {
    this.shared.link.hurry(CANCEL_SILENCE_MS, false)
  }

  async revive(): Promise<void> {
    await this.shared.link.revive()
  }

  async freshen(): Promise<void> {
    this.#extents?.forget(0, Number.MAX_SAFE_INTEGER)
    await this.revive()
  }

  async close(): Promise<void> {
    if (--this.shared.users === 0) await this.shared.link.close()
  }

  #bytesOf({ slot, offset, length }: Slice): Uint8Array {
    return this.#engine.slotBytes(slot).subarray(offset, offset + length)
  }

  /** What goes wrong becomes an error of this node. */
  async #do<T>(op: IoOp, offset: number, length: number, work: () => Promise<T>): Promise<T> {
    using _held = this.#held.hold(op, this.#options.name)
    try {
      return await work()
    } catch (error) {
      if (error instanceof Refused)
        throw new IoError(error.errno, op, this.#options.name, offset, length, { cause: error })
      if (error instanceof Lost)
        throw new IoError(EIO, op, this.#options.name, offset, length, { cause: error })
      throw error
    }
  }

  async #change(
    op: 'write' | 'zero' | 'discard',
    offset: number,
    length: number,
    work: (start: number, end: number) => Promise<void>,
  ): Promise<void> {
    const note = () =>
      op === 'write' && !this.#bits
        ? this.#extents?.wrote(offset, length)
        : this.#extents?.forget(offset, length)
    note()
    try {
      await this.#do(op, offset, length, () => work(offset, offset + length))
      this.shared.unflushed = true
    } finally {
      note()
    }
  }

  /** @returns whether the server told that all of it is a hole */
  async #read(offset: number, into: Uint8Array): Promise<boolean> {
    const [start, end] = this.#whole(offset, into.length)
    if (start !== offset || end !== offset + into.length) {
      const around = new Uint8Array(end - start)
      const zero = await this.#read(start, around)
      into.set(around.subarray(offset - start, offset - start + into.length))
      return zero
    }
    let zero = true
    await this.#inParts(offset, into.length, this.#most, async (at, length) => {
      const part = into.subarray(at - offset, at - offset + length)
      const head = { command: commands.READ, flags: 0, offset: at, length }
      const { allHoles } = await this.shared.link.run((connection) =>
        connection.request(head, { into: part }),
      )
      if (!allHoles) zero = false
    })
    return zero
  }

  async #write(offset: number, bytes: Uint8Array, fua: boolean): Promise<void> {
    const [start, end] = this.#whole(offset, bytes.length)
    if (start !== offset || end !== offset + bytes.length) {
      const around = new Uint8Array(end - start)
      await this.#read(start, around)
      around.set(bytes, offset - start)
      return this.#write(start, around, fua)
    }
    const flag = fua && hasFlag(this.shared.link.agreed.flags, 'SEND_FUA') ? commandFlags.FUA : 0
    await this.#inParts(offset, bytes.length, this.#most, (at, length) =>
      this.#request(
        { command: commands.WRITE, flags: flag, offset: at, length },
        bytes.subarray(at - offset, at - offset + length),
      ),
    )
    if (fua && flag === 0) await this.flush()
  }

  async #zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    const end = offset + length
    const first = Math.min(this.#up(offset), end)
    const last = end === this.#size ? end : Math.max(first, this.#down(end))
    // Edges that are no whole blocks of the server.
    if (first > offset) await this.#write(offset, zeroes(first - offset), false)
    if (end > last) await this.#write(last, zeroes(end - last), false)
    if (last === first) return
    if (!hasFlag(this.shared.link.agreed.flags, 'SEND_WRITE_ZEROES')) {
      const most = Math.min(this.#most, this.#down(ZEROES.length))
      for (let at = first; at < last; at += most)
        await this.#write(at, zeroes(Math.min(most, last - at)), false)
      return
    }
    const flags = (how.unmap ? 0 : commandFlags.NO_HOLE) | (how.fast ? commandFlags.FAST_ZERO : 0)
    await this.#inParts(first, last - first, LONGEST, (at, part) =>
      this.#request({ command: commands.WRITE_ZEROES, flags, offset: at, length: part }),
    )
  }

  /** `[offset, length, kind, …]` for a cache: kind 0 reads as zero, or is a bit that is set. */
  async #askStatus(context: string, offset: number, length: number): Promise<Float64Array> {
    const bits = context !== ALLOCATION
    const [start, limit] = this.#whole(offset, Math.min(length, LONGEST))
    const extents = await this.#do('status', offset, length, () =>
      this.shared.link.run(async (connection: Connection) => {
        const chosen = connection.agreed.contexts.find(({ name }) => name === context)
        // A server that came back without it: bits cannot be guessed.
        if (chosen === undefined && bits) throw new Refused(EIO, `the server offers no ${context} any more`)
        if (chosen === undefined) return [{ length: limit - start, status: 0 }]
        const head = { command: commands.BLOCK_STATUS, flags: 0, offset: start, length: limit - start }
        return (await connection.request(head)).extents.get(chosen.id) ?? []
      }),
    )
    const marked = ({ status }: { status: number }) =>
      bits ? status === dirtyState.DIRTY : (status & allocationState.ZERO) !== 0
    const list = new Float64Array(3 * extents.length)
    let at = start
    let count = 0
    for (const extent of extents) {
      const end = Math.min(at + extent.length, this.#size)
      if (end <= at) break
      list.set([at, end - at, marked(extent) ? 0 : 1], 3 * count++)
      at = end
    }
    return list.subarray(0, 3 * count)
  }

  async #request(
    head: {
      readonly command: number
      readonly flags: number
      readonly offset: number
      readonly length: number
    },
    payload?: Uint8Array,
  ): Promise<void> {
    await this.shared.link.run((connection) =>
      connection.request(head, payload === undefined ? {} : { payload }),
    )
  }

  /** All parts at once. When one fails, the others have ended too before this throws: they use the caller's memory. */
  async #inParts(
    offset: number,
    length: number,
    most: number,
    work: (at: number, length: number) => Promise<void>,
  ): Promise<void> {
    if (length <= most) return work(offset, length)
    const parts: Promise<void>[] = []
    for (let at = 0; at < length; at += most) parts.push(work(offset + at, Math.min(most, length - at)))
    const failed = (await Promise.allSettled(parts)).find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
  }

  /** The range in whole blocks of the server, as far as the export goes: from, to. */
  #whole(offset: number, length: number): [number, number] {
    return [this.#down(offset), Math.min(this.#up(offset + length), this.#size)]
  }

  #down(value: number): number {
    return Math.floor(value / this.#align) * this.#align
  }

  #up(value: number): number {
    return Math.ceil(value / this.#align) * this.#align
  }
}

function zeroes(length: number): Uint8Array {
  return ZEROES.subarray(0, length)
}

function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZEROES.length) {
    const end = Math.min(at + ZEROES.length, bytes.length)
    if (ZEROES.compare(bytes, at, end, 0, end - at) !== 0) return false
  }
  return true
}
