// SPDX-License-Identifier: Apache-2.0
// A map from cluster indexes to small numbers, for images with millions of tables: nine bytes for a place, outside of the
// heap of JavaScript, whose limit would end the process. Used by TableClusters.
// Many small hash tables, of which an index has one by its hash: each grows by itself, so no change takes long, or needs memory
// for all of it twice. Nine and a half million clusters, as many as are ever learned of an image, take 144 MiB.

import { randomInt } from 'node:crypto'

/** Bits of a hash that choose one of the tables. */
const PART_BITS = 8
const PARTS = 2 ** PART_BITS
/** Places of one at first, a power of two. */
const LEAST = 16
/** Of the places of a table that are taken at most: a search for what is not there looks at four of them then. */
const MOST_TAKEN = 5 / 8
/** Of MurmurHash3's last step: neighbours get places that lie far apart. */
const MIX = [0x85ebca6b, 0xc2b2ae35] as const

export class ClusterKinds {
  #parts = noParts()
  #size = 0
  /** An image chooses its indexes: without it, it could have all of them look for one place. */
  readonly #secret = randomInt(2 ** 32)
  readonly #hash = (index: number): number => {
    let mixed = index ^ this.#secret
    for (const factor of MIX) {
      mixed ^= Math.floor(index / 2 ** 32) ^ (mixed >>> 16)
      mixed = Math.imul(mixed, factor)
    }
    return mixed ^ (mixed >>> 15)
  }

  get size(): number {
    return this.#size
  }

  /** @returns 0 where nothing was set */
  get(index: number): number {
    const hash = this.#hash(index)
    return this.#parts[hash & (PARTS - 1)]?.get(index, hash) ?? 0
  }

  /** @param value  0 to 255; 0 takes it away */
  set(index: number, value: number): void {
    const hash = this.#hash(index)
    let part = this.#parts[hash & (PARTS - 1)]
    if (part === undefined) {
      part = new Part(this.#hash)
      this.#parts[hash & (PARTS - 1)] = part
    }
    const before = part.size
    part.set(index, hash, value)
    this.#size += part.size - before
  }

  clear(): void {
    this.#parts = noParts()
    this.#size = 0
  }
}

function noParts(): (Part | undefined)[] {
  return Array.from({ length: PARTS }, () => undefined)
}

/** Open addressing and linear probing; a place is free when its value is 0. */
class Part {
  readonly #hash: (index: number) => number
  #keys = new Float64Array(LEAST)
  #values = new Uint8Array(LEAST)
  size = 0

  constructor(hash: (index: number) => number) {
    this.#hash = hash
  }

  get(index: number, hash: number): number {
    return this.#values[this.#place(index, hash)] ?? 0
  }

  set(index: number, hash: number, value: number): void {
    const place = this.#place(index, hash)
    const before = this.#values[place]
    if (value === 0) {
      if (before !== 0) this.#empty(place)
      return
    }
    this.#keys[place] = index
    this.#values[place] = value
    if (before !== 0) return
    this.size += 1
    if (this.size > this.#keys.length * MOST_TAKEN) this.#grow()
  }

  /** Where an index is, or would be. */
  #place(index: number, hash: number): number {
    let place = this.#first(hash)
    while (this.#values[place] !== 0 && this.#keys[place] !== index) place = this.#after(place)
    return place
  }

  /** What chose the part says nothing of the place in it. */
  #first(hash: number): number {
    return (hash >>> PART_BITS) & (this.#keys.length - 1)
  }

  #after(place: number): number {
    return (place + 1) & (this.#keys.length - 1)
  }

  /** What was pushed on by who was here moves up, so that it is found. */
  #empty(place: number): void {
    let hole = place
    for (let next = this.#after(place); this.#values[next] !== 0; next = this.#after(next)) {
      const key = this.#keys[next] ?? 0
      const mask = this.#keys.length - 1
      const first = this.#first(this.#hash(key))
      if (((next - first) & mask) < ((next - hole) & mask)) continue
      this.#keys[hole] = key
      this.#values[hole] = this.#values[next] ?? 0
      hole = next
    }
    this.#values[hole] = 0
    this.size -= 1
  }

  #grow(): void {
    const [keys, values] = [this.#keys, this.#values]
    this.#keys = new Float64Array(keys.length * 2)
    this.#values = new Uint8Array(keys.length * 2)
    for (let old = 0; old < keys.length; old++) {
      const value = values[old] ?? 0
      if (value === 0) continue
      const key = keys[old] ?? 0
      const place = this.#place(key, this.#hash(key))
      this.#keys[place] = key
      this.#values[place] = value
    }
  }
}
