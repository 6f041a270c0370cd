// SPDX-License-Identifier: Apache-2.0
// Buffers of a worker's exports: pieces of the engine's slots, small ones carved out of a shared slot. Clients decide how
// long they hold them (a reply that is not read holds its data), so they are shared by one rule: a client may take another
// piece while it holds less than a quarter of what is free. One slow client then holds a fifth of everything, a hundred
// of them together leave room for the next.
// Used by the connections of exports. Jobs have the rest of the slots.

import type { IoEngine } from '../../../native/types.js'
import type { Slice } from '../block/driver.js'

/** Bytes of a carved piece. */
export const SMALL = 64 * 1024
/** A client may hold what is free divided by this. */
const SHARE = 4

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
  readonly #line: (() => void)[] = []

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
    const total = this.#most * this.#engine.slotSize
    const room = (total - this.#used) / SHARE - holder.held
    const large = length > SMALL && room >= this.#engine.slotSize
    // Whoever holds nothing gets something as long as there is anything.
    if (!large && room < SMALL && holder.held > 0) return undefined
    const piece = (large ? this.#whole(length) : undefined) ?? this.#small(Math.min(length, SMALL))
    if (piece !== undefined) this.#count(holder, sizeOf(piece, this.#engine.slotSize))
    return piece
  }

  give(holder: Holder, piece: Piece): void {
    const size = sizeOf(piece, this.#engine.slotSize)
    this.#count(holder, -size)
    const places = this.#carved.get(piece.slot)
    if (places === undefined) this.#giveSlot(piece.slot)
    else this.#giveSmall(piece, places)
    for (const call of this.#line.splice(0)) call()
  }

  /** Calls once, when a piece was given back; somebody else may be faster. */
  whenGiven(call: () => void): void {
    this.#line.push(call)
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
    let slot = this.#open.at(-1)
    if (slot === undefined) {
      slot = this.#takeSlot()
      if (slot === undefined) return undefined
      const places = Array.from({ length: this.#engine.slotSize / SMALL }, (_, index) => index)
      this.#carved.set(slot, places)
      this.#open.push(slot)
    }
    const places = this.#carved.get(slot) ?? []
    const place = places.pop() ?? 0
    if (places.length === 0) this.#open.pop()
    return this.#piece(slot, place * SMALL, length)
  }

  #giveSmall({ slot, offset }: Piece, places: number[]): void {
    if (places.length === 0) this.#open.push(slot)
    places.push(offset / SMALL)
    if (places.length < this.#engine.slotSize / SMALL) return
    this.#carved.delete(slot)
    this.#open.splice(this.#open.indexOf(slot), 1)
    this.#giveSlot(slot)
  }

  #piece(slot: number, offset: number, length: number): Piece {
    const bytes = this.#engine.slotBytes(slot).subarray(offset, offset + length)
    return { slot, offset, length, bytes }
  }

  #takeSlot(): number | undefined {
    const slot = this.#slots < this.#most ? this.#engine.takeSlots(1)[0] : undefined
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
