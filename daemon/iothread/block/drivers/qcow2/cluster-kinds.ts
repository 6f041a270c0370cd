// SPDX-License-Identifier: Apache-2.0
// A map from cluster indexes to small numbers, for images with millions of tables: nine bytes for a place, outside of the
// heap of JavaScript, whose limit would end the process. Used by TableClusters.
// A hash table with open addressing and linear probing; a place is free when its value is 0. At most half of the places are taken.

import { randomInt } from 'node:crypto'

const LEAST = 64
/** Of MurmurHash3's last step: neighbours get places that lie far apart. */
const MIX = [0x85ebca6b, 0xc2b2ae35] as const

export class ClusterKinds {
  #keys = new Float64Array(LEAST)
  #values = new Uint8Array(LEAST)
  #size = 0
  /** An image chooses its indexes: without it, it could have all of them look for one place. */
  readonly #secret = randomInt(2 ** 32)

  get size(): number {
    return this.#size
  }

  /** @returns 0 where nothing was set */
  get(index: number): number {
    return this.#values[this.#place(index)] ?? 0
  }

  /** @param value  0 to 255; 0 takes it away */
  set(index: number, value: number): void {
    const place = this.#place(index)
    const before = this.#values[place]
    if (value === 0) {
      if (before !== 0) this.#empty(place)
      return
    }
    this.#keys[place] = index
    this.#values[place] = value
    if (before !== 0) return
    this.#size += 1
    if (this.#size * 2 > this.#keys.length) this.#grow()
  }

  clear(): void {
    this.#keys = new Float64Array(LEAST)
    this.#values = new Uint8Array(LEAST)
    this.#size = 0
  }

  /** Where an index is, or would be. */
  #place(index: number): number {
    let place = this.#first(index)
    while (this.#values[place] !== 0 && this.#keys[place] !== index) place = this.#after(place)
    return place
  }

  #first(index: number): number {
    let mixed = index ^ this.#secret
    for (const factor of MIX) {
      mixed ^= Math.floor(index / 2 ** 32) ^ (mixed >>> 16)
      mixed = Math.imul(mixed, factor)
    }
    return (mixed ^ (mixed >>> 15)) & (this.#keys.length - 1)
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
      const first = this.#first(key)
      if (((next - first) & mask) < ((next - hole) & mask)) continue
      this.#keys[hole] = key
      this.#values[hole] = this.#values[next] ?? 0
      hole = next
    }
    this.#values[hole] = 0
    this.#size -= 1
  }

  #grow(): void {
    const [keys, values] = [this.#keys, this.#values]
    this.#keys = new Float64Array(keys.length * 2)
    this.#values = new Uint8Array(keys.length * 2)
    for (let old = 0; old < keys.length; old++) {
      const value = values[old] ?? 0
      if (value === 0) continue
      const key = keys[old] ?? 0
      const place = this.#place(key)
      this.#keys[place] = key
      this.#values[place] = value
    }
  }
}
