// SPDX-License-Identifier: Apache-2.0
// Mapped: what every image format shares. The format says where guest bytes lie (MapDriver); this file does the I/O:
// scattered pieces at once through a task pool, backing chains, packed clusters. Changes are mapped-write.ts's.

import type { Range } from '../../../native/types.js'
import { EIO } from '../../common/errno.js'
import { IoError } from '../../errors.js'
import { TaskPool } from '../copy/task-pool.js'
import type { FormatFacts } from '../messages.js'
import type { BitmapStore } from './bitmaps/bitmap-store.js'
import type {
  BackingFile,
  BlockDriver,
  Can,
  DriverName,
  Extent,
  Limits,
  Permissions,
  ReadHow,
  ResizeHow,
  Slice,
  StatusHow,
  WriteHow,
  ZeroHow,
} from './driver.js'
import type { DriverBuffers } from './driver-buffers.js'
import { MappedWriter } from './mapped-write.js'
import type { MapDriver, Mapping } from './mapping.js'
import { type BlockNode, SECTOR } from './node.js'

export interface MappedOptions {
  readonly type: DriverName
  /** Name of the node, for errors. */
  readonly name: string
  readonly map: MapDriver
  readonly file: BlockNode
  readonly backing: BlockNode | undefined
  readonly buffers: DriverBuffers
  /** Pieces of one request under way at most. */
  readonly tasks: number
  /** Asked each time: the file may be reopened. */
  readonly readOnly: () => boolean
}

/** Mappings told as one extent at most: an answer must not take long. */
const MOST_JOINED = 4096

export type Data = Extract<Mapping, { kind: 'data' }>
type Compressed = Extract<Mapping, { kind: 'compressed' }>

export class MappedDriver implements BlockDriver {
  readonly type: DriverName
  readonly limits: Limits
  readonly #options: MappedOptions
  /** Changed by replaceChild() only. */
  #backing: BlockNode | undefined
  readonly #map: MapDriver
  readonly #writer: MappedWriter

  constructor(options: MappedOptions) {
    const { map, buffers } = options
    this.type = options.type
    this.#backing = options.backing
    this.#options = options
    this.#map = map
    const { slotSize } = buffers.engine
    this.limits = {
      requestAlign: 1,
      maxTransfer: slotSize,
      zeroAlign: map.clusterSize,
      writeAlign: map.clusterSize,
    }
    this.#writer = new MappedWriter(options, this)
  }

  /** What shows through where nothing is stored. */
  get backing(): BlockNode | undefined {
    return this.#backing
  }

  get can(): Can {
    const write = !this.#options.readOnly()
    return { write, resize: write, fastZero: true, unmap: true }
  }

  length(): number {
    return this.#map.length()
  }

  replaceChild(role: string, node: BlockNode | undefined): void {
    if (role === 'backing') this.#backing = node
    this.#map.replaceChild(role, node)
  }

  empty(): Promise<void> {
    return this.#map.empty()
  }

  nameBacking(backing: BackingFile | undefined): Promise<void> {
    return this.#map.nameBacking(backing)
  }

  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const epoch = this.#map.enter()
    try {
      const pieces = await this.#pieces(offset, into.length)
      const [first] = pieces
      if (first !== undefined && pieces.length === 1) return await this.#readPiece(first, into, how)
      return await this.#readPieces(pieces, into, how)
    } finally {
      this.#map.leave(epoch)
    }
  }

  write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return this.#writer.write(offset, from, how)
  }

  zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    return this.#writer.zero(offset, length, how)
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#writer.discard(offset, length)
  }

  /** Ranges with one answer are told as one, wherever their clusters lie; `places` keeps them apart. */
  async status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    const epoch = this.#map.enter()
    const end = offset + length
    try {
      let mapping = await this.#map.map(offset, length)
      const found = await this.#extent(mapping, how)
      let { host } = found
      let at = offset + found.length
      // Where a backing node's answer ends early, the next one differs: to ask would double the work at each layer.
      for (
        let joined = 0;
        mapping.offset + mapping.length === at && at < end && joined < MOST_JOINED;
        joined++
      ) {
        mapping = await this.#map.map(at, end - at)
        const next = await this.#extent(mapping, how)
        if (!alike(found, next)) break
        const inLine = host === undefined ? next.host === undefined : next.host === host + at - offset
        if (!inLine && how?.places === true) break
        if (!inLine) host = undefined
        at += next.length
      }
      const { host: _, ...rest } = found
      return host === undefined ? { ...rest, length: at - offset } : { ...found, length: at - offset }
    } finally {
      this.#map.leave(epoch)
    }
  }

  flush(): Promise<void> {
    return this.#map.flush()
  }

  resize(length: number, { preallocate }: ResizeHow = {}): Promise<void> {
    const how = { unmap: false, fast: false }
    return this.#map.resize(length, (at, size) => this.#writer.zero(at, size, how), preallocate)
  }

  async settle(): Promise<void> {
    if (this.can.write) await this.#map.settle()
  }

  freshen(): Promise<void> {
    return this.#map.freshen()
  }

  async takeOver(previous: BlockDriver): Promise<void> {
    if (previous instanceof MappedDriver) this.#map.takeOver(previous.#map)
  }

  format(): FormatFacts {
    return this.#map.format()
  }

  get bitmapStore(): BitmapStore | undefined {
    return this.#map.bitmapStore
  }

  /** The files of the image are its own: whoever changes anything writes and resizes them, and nobody else does. */
  childPermissions(role: string, own: Permissions): Permissions | undefined {
    if (role === 'backing') return undefined
    const changes = this.can.write && own.use.some((permission) => permission !== 'consistent read')
    return {
      use: changes ? ['consistent read', 'write', 'resize'] : ['consistent read'],
      share: own.share.includes('consistent read')
        ? ['consistent read', 'write unchanged']
        : ['write unchanged'],
    }
  }

  async close(): Promise<void> {
    try {
      await this.settle()
    } finally {
      this.#map.close()
    }
  }

  async #pieces(offset: number, length: number): Promise<readonly Mapping[]> {
    const found = await this.#map.maps(offset, length)
    let at = end(found)
    if (at === offset + length) return found
    const all = [...found]
    while (at < offset + length) {
      const more = await this.#map.maps(at, offset + length - at)
      all.push(...more)
      at = end(more)
    }
    return all
  }

  /** Scattered pieces at once, at most as many as the option says. */
  async #readPieces(pieces: readonly Mapping[], into: Slice, how?: ReadHow): Promise<boolean> {
    const { tasks } = this.#options
    // Data of one image lies in one file, which has a shorter way for many pieces.
    if (pieces.every(isThere)) {
      const [first] = pieces
      if (first !== undefined) return await first.file.readPieces(pieces.map(inFile), into, tasks, how)
    }
    const pool = new TaskPool(tasks)
    let zero = true
    try {
      let done = 0
      for (const piece of pieces) {
        const slice = part(into, done, piece.length)
        await pool.start(async () => {
          if (!(await this.#readPiece(piece, slice, how))) zero = false
        })
        done += piece.length
      }
    } finally {
      await pool.settle()
    }
    await pool.idle()
    return how?.scan === true && zero
  }

  async #readPiece(piece: Mapping, into: Slice, how?: ReadHow): Promise<boolean> {
    switch (piece.kind) {
      case 'data':
        return await this.#readClipped(piece.file, piece.host, into, how)
      case 'zero':
        return this.#fillZero(into, how)
      case 'backing':
        if (this.#backing === undefined) return this.#fillZero(into, how)
        return await this.#readClipped(this.#backing, piece.offset, into, how)
      case 'compressed':
        await this.#unpack(piece, into)
        return false
      default:
        return piece satisfies never
    }
  }

  /** What lies beyond the end of the file, or of a shorter backing node, reads as zero. */
  async #readClipped(node: BlockNode, offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const there = Math.max(0, Math.ceil(node.length() / SECTOR) * SECTOR - offset)
    if (there >= into.length) return await node.read(offset, into, how)
    this.#fillZero(part(into, there, into.length - there), how)
    return there === 0 ? how?.scan === true : await node.read(offset, part(into, 0, there), how)
  }

  #fillZero(into: Slice, how?: ReadHow): boolean {
    const bytes = this.#options.buffers.engine.slotBytes(into.slot)
    bytes.fill(0, into.offset, into.offset + into.length)
    return how?.scan === true
  }

  async #unpack(piece: Compressed, into: Slice): Promise<void> {
    const { engine, packed } = this.#options.buffers
    using loan = await packed.take(Math.ceil(piece.size / engine.slotSize))
    const from = loan.slices.map((slice, index) => {
      const at = index * engine.slotSize
      return { ...slice, length: Math.min(engine.slotSize, piece.size - at) }
    })
    let at = piece.host
    for (const slice of from) {
      await this.#readClipped(piece.file, at, slice)
      at += slice.length
    }
    const { clusterSize, compression } = this.#map
    const result = await engine.decompress(compression, from, clusterSize, piece.skip, into)
    if (result < 0) throw new IoError(-result, 'read', this.#options.name, piece.offset, piece.length)
    if (result !== into.length) throw new IoError(EIO, 'read', this.#options.name, piece.offset, piece.length)
  }

  async #extent(mapping: Mapping, how?: StatusHow): Promise<Extent> {
    const { offset, length } = mapping
    switch (mapping.kind) {
      case 'data':
        return await this.#extentOfData(mapping, how)
      case 'zero': {
        const place = mapping.host === undefined ? undefined : { host: mapping.host }
        return { offset, length, kind: 'zero', allocated: true, ...place }
      }
      case 'compressed':
        return { offset, length, kind: 'data', allocated: true, compressed: true }
      case 'backing':
        return await this.#extentBelow(offset, length, how)
      default:
        return mapping satisfies never
    }
  }

  async #extentOfData({ offset, length, file, host }: Data, how?: StatusHow): Promise<Extent> {
    const data = { offset, length, kind: 'data', allocated: true, host } as const
    const looks = this.#map.looksThrough()
    if (looks === false || !(await looks)) return data
    const end = Math.ceil(file.length() / SECTOR) * SECTOR
    if (host >= end) return { ...data, kind: 'zero', hole: true }
    const there = await file.status(host, Math.min(length, end - host), how)
    const first = { ...data, length: there.length }
    return there.kind === 'zero' ? { ...first, kind: 'zero', hole: true } : first
  }

  async #extentBelow(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    const end = this.#backing === undefined ? 0 : Math.ceil(this.#backing.length() / SECTOR) * SECTOR
    if (this.#backing === undefined || offset >= end) {
      return { offset, length, kind: 'zero', allocated: false, absent: true }
    }
    const below = await this.#backing.status(offset, Math.min(length, end - offset), how)
    return { ...below, allocated: false, depth: (below.depth ?? 0) + 1 }
  }
}

/** Part of a slice. */
export function part(slice: Slice, from: number, length: number): Slice {
  return { slot: slice.slot, offset: slice.offset + from, length }
}

/** Where a list of mappings ends. */
function end(list: readonly Mapping[]): number {
  const last = list.at(-1)
  if (last === undefined) throw new Error('a list of mappings has at least one')
  return last.offset + last.length
}

/** Data that is not beyond the end of the file. */
function isThere(mapping: Mapping): mapping is Data {
  return mapping.kind === 'data' && mapping.host + mapping.length <= mapping.file.length()
}

export function inFile({ host, length }: Data): Range {
  return { offset: host, length }
}

/** Neighbours with one answer, but for their places. */
function alike(first: Extent, next: Extent): boolean {
  return (
    first.kind === next.kind &&
    first.allocated === next.allocated &&
    first.depth === next.depth &&
    first.compressed === next.compressed &&
    first.hole === next.hole &&
    first.absent === next.absent
  )
}
