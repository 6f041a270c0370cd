// SPDX-License-Identifier: Apache-2.0
// Sectors that say who wrote them: each holds its number and a generation, all over. Knows what a reader of each sector
// may find while others change it: what was there when the read began, or what was being written since.

const SECTOR = 512

/** Generation of a sector that reads as zero. */
export const ZERO = 0

interface Reading {
  readonly first: number
  /** By sector, from `first` on. */
  readonly allowed: readonly Set<number>[]
}

export class Stamps {
  readonly #now: Uint32Array
  /** Generations being written; NONE: nobody changes the sector. */
  readonly #next: Int32Array
  readonly #readings = new Set<Reading>()
  #generation = 0

  constructor(size: number) {
    this.#now = new Uint32Array(size / SECTOR)
    this.#next = new Int32Array(size / SECTOR).fill(NONE)
  }

  newGeneration(): number {
    this.#generation += 1
    return this.#generation
  }

  /** Nobody changes any of it now. */
  isQuiet(offset: number, length: number): boolean {
    return this.#next.subarray(offset / SECTOR, (offset + length) / SECTOR).every((next) => next === NONE)
  }

  /** A change of the range to a generation begins. @returns to be called when it has ended */
  change(offset: number, length: number, generation: number): () => void {
    const [first, end] = [offset / SECTOR, (offset + length) / SECTOR]
    this.#next.fill(generation, first, end)
    for (const reading of this.#readings)
      for (let sector = first; sector < end; sector++)
        reading.allowed[sector - reading.first]?.add(generation)
    return () => {
      this.#next.fill(NONE, first, end)
      this.#now.fill(generation, first, end)
    }
  }

  /** A read begins. @returns to be called with what it found; tells what may not be there */
  reading(offset: number, length: number): (bytes: Uint8Array) => string | undefined {
    const first = offset / SECTOR
    const allowed = Array.from({ length: length / SECTOR }, (_, index) => {
      const next = this.#next[first + index] as number
      const now = this.#now[first + index] as number
      return new Set(next === NONE ? [now] : [now, next])
    })
    const reading: Reading = { first, allowed }
    this.#readings.add(reading)
    return (bytes) => {
      this.#readings.delete(reading)
      for (const [index, generations] of allowed.entries()) {
        const wrong = wrongSector(
          bytes.subarray(index * SECTOR, (index + 1) * SECTOR),
          first + index,
          generations,
        )
        if (wrong !== undefined) return wrong
      }
      return undefined
    }
  }
}

const NONE = -1

/** Fills bytes for a range. */
export function stamp(bytes: Uint8Array, offset: number, generation: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 0; at < bytes.length; at += 8) {
    view.setUint32(at, Math.floor((offset + at) / SECTOR) + 1)
    view.setUint32(at + 4, generation)
  }
}

/** Each 8 bytes by themselves: a page cache does not keep readers from a write that is half done. */
function wrongSector(bytes: Uint8Array, sector: number, generations: Set<number>): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 0; at < SECTOR; at += 8) {
    const [number, generation] = [view.getUint32(at), view.getUint32(at + 4)]
    if (number === (generation === ZERO ? 0 : sector + 1) && generations.has(generation)) continue
    const wanted = [...generations].join(' or ')
    return `sector ${sector} at ${at}: sector ${number - 1} of generation ${generation} instead of ${wanted}`
  }
  return undefined
}
