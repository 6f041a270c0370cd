// SPDX-License-Identifier: Apache-2.0
// Buffers of a worker's exports: pieces of the engine's slots, small ones carved out of a shared slot. Clients decide how
// long they hold them (a reply that is not read holds its data), so they are shared by one rule: a client may take another
// piece while it holds less than a quarter of what is free. One slow client then holds a fifth of everything. That alone
// would let thirty of them hold all, so an eighth is set apart for those that hold nothing: a small piece for each, with
// which a request of any length goes on.
// Used by the connections of exports. Jobs have the rest of the slots.

import type { IoEngine } from '../../../native/types.js'
import type { Slice } from '../block/driver.js'

/** Bytes of a carved piece. */
export const SMALL = 64 * 1024
/** A client may hold what is free divided by this. */
const SHARE = 4
/** So much of everything is set apart. */
const APART = 8

/** Its owner gives it back with give(). */
export interface Piece extends Slice {
  /** Its memory; not to be used after it is given back. */
  readonly bytes: Uint8Array
}

/** What one client holds; made by the pool. */
export interface Holder {
  /** Bytes. */
  held: number
}

export class PiecePool {
  readonly #engine: IoEngine
  readonly #most: number
  /** Slots in use. */
  #slots = 0
  /** Free places of shared slots, by slot: places are counted in SMALL bytes. */
  readonly #carved = new Map<number, number[]>()
  /** Slots with a free place, newest last. */
  readonly #open: number[] = []
  #used = 0
  #kept = false
  /** Who waits for memory, by for whom. */
  readonly #line = new Map<Holder, (() => void)[]>()

  /** @param most  slots that exports may take altogether */
  constructor(engine: IoEngine, most: number) {
    this.#engine = engine
    this.#most = most
  }

  /** Longest piece, bytes. */
  get longest(): number {
    return this.#engine.slotSize
  }

  /**
   * @param length  bytes wanted
   * @returns a piece of that length or shorter; undefined while there is none for this client
   */
  take(holder: Holder, length: number): Piece | undefined {
    const room = this.#room(holder)
    const large = length > SMALL && room >= this.#engine.slotSize
    if (!large && room < SMALL && holder.held > 0) return undefined
    const piece = (large ? this.#whole(length) : undefined) ?? this.#small(Math.min(length, SMALL))
    if (piece !== undefined) this.#count(holder, sizeOf(piece, this.#engine.slotSize))
    return piece
  }

  /**
   * Keeps a slot until release(): jobs may take all others, and nobody tells of what they give back.
   * @returns false when there is none
   */
  keep(): boolean {
    this.#kept = true
    if (this.#carved.size === 0 && this.#carve() === undefined) this.#kept = false
    return this.#kept
  }

  /** Nothing is held any more, and nothing will be taken before the next keep(). */
  release(): void {
    this.#kept = false
    for (const slot of this.#carved.keys()) this.#giveSlot(slot)
    this.#carved.clear()
    this.#open.length = 0
  }

  give(holder: Holder, piece: Piece): void {
    const size = sizeOf(piece, this.#engine.slotSize)
    this.#count(holder, -size)
    const places = this.#carved.get(piece.slot)
    if (places === undefined) this.#giveSlot(piece.slot)
    else this.#giveSmall(piece, places)
    this.#wake()
  }

  /** Calls once, when the holder may take a piece again; somebody else may be faster. */
  whenGiven(holder: Holder, call: () => void): void {
    const calls = this.#line.get(holder)
    if (calls === undefined) this.#line.set(holder, [call])
    else calls.push(call)
  }

  /** Those who may take nothing stay asleep: only giving back changes that. */
  #wake(): void {
    const woken: (() => void)[] = []
    for (const [holder, calls] of this.#line) {
      if (holder.held > 0 && this.#room(holder) < SMALL) continue
      this.#line.delete(holder)
      woken.push(...calls)
    }
    for (const call of woken) call()
  }

  /** What a client may take of what is shared, bytes; may be less than nothing. */
  #room(holder: Holder): number {
    const shared = this.#most * this.#engine.slotSize * (1 - 1 / APART)
    return (shared - this.#used) / SHARE - holder.held
  }

  #count(holder: Holder, bytes: number): void {
    holder.held += bytes
    this.#used += bytes
  }

  #whole(length: number): Piece | undefined {
    const slot = this.#takeSlot()
    return slot === undefined ? undefined : this.#piece(slot, 0, Math.min(length, this.#engine.slotSize))
  }

  #small(length: number): Piece | undefined {
    const slot = this.#open.at(-1) ?? this.#carve()
    if (slot === undefined) return undefined
    const places = this.#carved.get(slot) ?? []
    const place = places.pop() ?? 0
    if (places.length === 0) this.#open.pop()
    return this.#piece(slot, place * SMALL, length)
  }

  #carve(): number | undefined {
    const slot = this.#takeSlot()
    if (slot === undefined) return undefined
    const places = Array.from({ length: this.#engine.slotSize / SMALL }, (_, index) => index)
    this.#carved.set(slot, places)
    this.#open.push(slot)
    return slot
  }

  #giveSmall({ slot, offset }: Piece, places: number[]): void {
    if (places.length === 0) this.#open.push(slot)
    places.push(offset / SMALL)
    if (places.length < this.#engine.slotSize / SMALL || (this.#kept && this.#carved.size === 1)) return
    this.#carved.delete(slot)
    this.#open.splice(this.#open.indexOf(slot), 1)
    this.#giveSlot(slot)
  }

  #piece(slot: number, offset: number, length: number): Piece {
    const bytes = this.#engine.slotBytes(slot).subarray(offset, offset + length)
    return { slot, offset, length, bytes }
  }

  #takeSlot(): number | undefined {
    if (this.#slots >= this.#most) return undefined
    // The first one is kept.
    const engine = this.#engine
    const slot = this.#slots === 0 ? engine.takeSlots(1)[0] : engine.takePiece(engine.slotSize)
    if (slot !== undefined) this.#slots++
    return slot
  }

  #giveSlot(slot: number): void {
    this.#slots--
    this.#engine.giveSlots([slot])
  }
}

/** What a piece takes up: a place of a shared slot, or a slot. */
function sizeOf(piece: Piece, slotSize: number): number {
  return piece.length <= SMALL ? SMALL : slotSize
}
