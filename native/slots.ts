// SPDX-License-Identifier: Apache-2.0
// The slots of one engine as JavaScript knows them: who takes them, their bytes, and when idle ones go back. Used by engine.ts.

import type { NativeEngine } from './binding.js'
import type { EngineOptions } from './types.js'

/** Of an engine for which nobody says otherwise. */
export const DEFAULT_SLOTS = 64
const SLOTS_PER_GROUP = 8
const TRIM_INTERVAL_MS = 5000

export class Slots {
  readonly #native: NativeEngine
  readonly #size: number
  /** Slots there are, and those of them, the last ones, that are set apart. */
  readonly #most: number
  readonly #setApart: number
  readonly #groups: (ArrayBuffer | undefined)[] = []
  /** Slots of each run, by the first of them. */
  readonly #runs = new Map<number, number>()
  /** Who waits for slots. */
  readonly #line: (() => void)[] = []
  #trimming: NodeJS.Timeout | undefined

  /** @param size  of a slot, bytes */
  constructor(native: NativeEngine, size: number, { maxSlots = DEFAULT_SLOTS, setApart = 0 }: EngineOptions) {
    this.#native = native
    this.#size = size
    this.#most = maxSlots
    this.#setApart = setApart
  }

  take(count: number, among = this.#most): number[] {
    const slots = this.#native.takeSlots(count, among)
    if (slots.length > 0) this.#trimLater()
    return slots
  }

  takeRun(length: number, among = this.#most): number | undefined {
    const count = Math.ceil(length / this.#size)
    const first = this.#native.takeRun(count, among)
    if (first === undefined) return undefined
    this.#trimLater()
    this.#runs.set(first, count)
    return first
  }

  takePiece(length: number, held = 0): number | undefined {
    const single = length <= this.#size
    const among = this.#most - (single ? this.#setApart : this.#setApart / 2)
    if (held > 0 && held >= among - this.inUse) return undefined
    return single ? this.take(1, among)[0] : this.takeRun(length, among)
  }

  get inUse(): number {
    return this.#native.stats()[3]
  }

  give(slots: readonly number[]): void {
    this.#native.giveSlots(slots)
    for (const slot of slots) this.#runs.delete(slot)
    for (const call of this.#line.splice(0)) call()
  }

  whenGiven(call: () => void): void {
    this.#line.push(call)
  }

  bytes(slot: number): Uint8Array {
    const group = Math.floor(slot / SLOTS_PER_GROUP)
    const buffer = this.#groups[group] ?? this.#native.groupBytes(group)
    if (buffer === undefined) throw new RangeError(`slot ${slot} is not taken`)
    this.#groups[group] = buffer
    const length = (this.#runs.get(slot) ?? 1) * this.#size
    return new Uint8Array(buffer, (slot % SLOTS_PER_GROUP) * this.#size, length)
  }

  /** Groups that were idle since the last look go back. */
  trim(): void {
    const mapped = this.#native.trim()
    this.#groups.length = 0
    if (mapped === 0) this.end()
  }

  trimAll(): void {
    this.trim()
    this.trim()
  }

  /** No more trimming by itself. */
  end(): void {
    clearInterval(this.#trimming)
    this.#trimming = undefined
  }

  #trimLater(): void {
    this.#trimming ??= setInterval(() => this.trim(), TRIM_INTERVAL_MS).unref()
  }
}
