// SPDX-License-Identifier: Apache-2.0
// x-memory: a disk in memory, with real zero extents. For tests, and for scratch disks that may vanish with the daemon.

import type { IoEngine } from '../../../../native/types.js'
import type { NodeSpec } from '../../messages.js'
import type { BlockDriver, Can, Extent, Limits, ReadHow, Slice } from '../driver.js'
import { sizeOption } from '../options.js'

/** Bytes per piece; a piece that was never written, or was zeroed whole, takes no memory. */
const PIECE = 65536

/** Outlives a reopen: the new driver takes over the pieces of the old one. */
interface Storage {
  readonly pieces: Map<number, Uint8Array>
  size: number
}

export class MemoryDriver implements BlockDriver {
  readonly type = 'x-memory'
  readonly can: Can = { write: true, resize: true, fastZero: true, unmap: true }
  readonly limits: Limits
  readonly storage: Storage
  readonly #engine: IoEngine

  constructor(engine: IoEngine, storage: Storage) {
    this.#engine = engine
    this.storage = storage
    this.limits = { requestAlign: 1, maxTransfer: engine.slotSize, zeroAlign: PIECE }
  }

  length(): number {
    return this.storage.size
  }

  async read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    const bytes = this.#bytes(into)
    for (const part of parts(offset, into.length)) {
      const target = bytes.subarray(part.at, part.at + part.length)
      const piece = this.storage.pieces.get(part.piece)
      if (piece === undefined) target.fill(0)
      else target.set(piece.subarray(part.from, part.from + part.length))
    }
    return how?.scan === true && bytes.every((byte) => byte === 0)
  }

  async write(offset: number, from: Slice): Promise<void> {
    const bytes = this.#bytes(from)
    for (const part of parts(offset, from.length)) {
      let piece = this.storage.pieces.get(part.piece)
      if (piece === undefined) {
        piece = new Uint8Array(PIECE)
        this.storage.pieces.set(part.piece, piece)
      }
      piece.set(bytes.subarray(part.at, part.at + part.length), part.from)
    }
    this.storage.size = Math.max(this.storage.size, offset + from.length)
  }

  async zero(offset: number, length: number): Promise<void> {
    for (const part of parts(offset, length)) {
      if (part.length === PIECE) this.storage.pieces.delete(part.piece)
      else this.storage.pieces.get(part.piece)?.fill(0, part.from, part.from + part.length)
    }
  }

  discard(offset: number, length: number): Promise<void> {
    return this.zero(offset, length)
  }

  async status(offset: number, length: number): Promise<Extent> {
    const first = Math.floor(offset / PIECE)
    const last = Math.floor((offset + length - 1) / PIECE)
    const stored = this.storage.pieces.has(first)
    let piece = first + 1
    while (piece <= last && this.storage.pieces.has(piece) === stored) piece += 1
    const end = Math.min(piece * PIECE, offset + length)
    return { offset, length: end - offset, kind: stored ? 'data' : 'zero', allocated: stored }
  }

  async flush(): Promise<void> {}

  async resize(length: number): Promise<void> {
    if (length < this.storage.size) {
      await this.zero(length, Math.ceil(this.storage.size / PIECE) * PIECE - length)
    }
    this.storage.size = length
  }

  async close(): Promise<void> {}

  #bytes(slice: Slice): Uint8Array {
    return this.#engine.slotBytes(slice.slot).subarray(slice.offset, slice.offset + slice.length)
  }
}

export function openMemory(
  spec: NodeSpec,
  engine: IoEngine,
  previous: MemoryDriver | undefined,
): MemoryDriver {
  const size = sizeOption(spec, 'size', 2 ** 30)
  return new MemoryDriver(engine, previous?.storage ?? { pieces: new Map(), size })
}

/** The range cut at piece borders: `from` in the piece, `at` in the range. */
function* parts(offset: number, length: number) {
  for (let at = 0; at < length; ) {
    const piece = Math.floor((offset + at) / PIECE)
    const from = offset + at - piece * PIECE
    const size = Math.min(PIECE - from, length - at)
    yield { piece, from, at, length: size }
    at += size
  }
}
