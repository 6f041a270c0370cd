// SPDX-License-Identifier: Apache-2.0
// The bytes of a storage device in memory, and the changes that power cuts take apart. Pure.

export const SECTOR = 512
/** What a discarded range of an image file holds: anything. */
const GARBAGE = 0xdb

/** One request that changes a device. */
export interface Change {
  /** Which of the devices. */
  readonly disk: number
  readonly kind: 'write' | 'zero' | 'discard' | 'resize'
  readonly offset: number
  /** Bytes; of a resize the new length. */
  readonly length: number
  /** Of a write. */
  readonly bytes?: Uint8Array
  /** Of a request that failed: the sectors, counted from its first, that it changed all the same. */
  landed?: ReadonlySet<number>
}

export class DiskBytes {
  #bytes: Buffer<ArrayBuffer>
  #length: number
  /** Discarded ranges read as zero, as in a file with holes. */
  readonly #holes: boolean

  constructor(bytes: Buffer<ArrayBuffer>, holes: boolean, length = bytes.length) {
    this.#bytes = bytes
    this.#length = length
    this.#holes = holes
  }

  get length(): number {
    return this.#length
  }
  /** Not to be kept across changes. */
  get bytes(): Buffer<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length)
  }

  copy(): DiskBytes {
    return new DiskBytes(Buffer.from(this.bytes), this.#holes)
  }

  /** @param chosen  sectors that are changed, counted from the first; default: all that the request did change */
  apply(change: Change, chosen: (sector: number) => boolean = () => true): void {
    const { kind, offset, length, landed } = change
    if (kind === 'resize') {
      if (landed === undefined && chosen(0)) this.#resize(length)
      return
    }
    for (let at = 0, sector = 0; at < length; sector++) {
      const end = Math.min(length, at + SECTOR - ((offset + at) % SECTOR))
      if (chosen(sector) && landed?.has(sector) !== false) this.#put(change, at, end)
      at = end
    }
  }

  #put({ kind, offset, bytes }: Change, at: number, end: number): void {
    if (kind === 'write' && bytes !== undefined) {
      if (offset + end > this.#length) this.#resize(offset + end)
      this.#bytes.set(bytes.subarray(at, end), offset + at)
      return
    }
    const value = kind === 'discard' && !this.#holes ? GARBAGE : 0
    this.#bytes.fill(value, Math.min(this.#length, offset + at), Math.min(this.#length, offset + end))
  }

  #resize(length: number): void {
    if (length > this.#bytes.length) {
      const more = Buffer.alloc(Math.max(length, this.#bytes.length * 2))
      more.set(this.bytes)
      this.#bytes = more
    } else if (length < this.#length) this.#bytes.fill(0, length, this.#length)
    this.#length = length
  }
}

/** Sectors that a change touches. */
export function sectorsOf({ kind, offset, length }: Change): number {
  if (kind === 'resize') return 1
  return Math.ceil((offset + length) / SECTOR) - Math.floor(offset / SECTOR)
}
