// SPDX-License-Identifier: Apache-2.0
// The named dirty bitmaps of one node. They belong to the node, not to its driver: a reopened driver finds them as they
// are. Marked by the node, changed by the bitmap table and by the driver of the image they are stored in.
// Changed only between awaits.

import { CommandError } from '../../../errors.js'
import type { DirtyBitmapReport } from '../../messages-bitmaps.js'
import { DirtyBitmap } from '../dirty-bitmap.js'
import { type BitmapChange, type BitmapState, NamedBitmap } from './named-bitmap.js'

const MOST_NAME_BYTES = 1023
/** Longest bitmap, bits: a quarter of a GiB of memory. */
const MOST_CHUNKS = 2 ** 31

/** What the bitmaps ask of the node they belong to. */
export interface BitmapOwner {
  readonly readOnly: boolean
  /** Bytes. */
  readonly size: () => number
}

export interface NewBitmap {
  readonly name: string
  /** Bytes per bit. */
  readonly granularity: number
  readonly persistent: boolean
  readonly recording: boolean
}

export class NodeBitmaps {
  /** In the order they came to be. */
  #list: NamedBitmap[] = []
  /** Removed, as long as that may be undone: they are marked still. */
  readonly #leaving = new Set<NamedBitmap>()
  #owner: BitmapOwner | undefined
  #added: () => void = () => {}
  #order = 0

  /** Called once, by the node. @param added  called when there is another bitmap */
  belongTo(owner: BitmapOwner, added: () => void): void {
    this.#owner = owner
    this.#added = added
  }

  get empty(): boolean {
    return this.#list.length === 0 && this.#leaving.size === 0
  }

  /** The range changed, or may have. */
  mark(offset: number, length: number): void {
    if (this.empty) return
    this.#follow()
    for (const bitmap of this.#list) bitmap.mark(offset, length)
    for (const bitmap of this.#leaving) bitmap.mark(offset, length)
  }

  find(name: string): NamedBitmap | undefined {
    this.#follow()
    return this.#list.find((bitmap) => bitmap.name === name)
  }

  /** @throws CommandError when there is none */
  get(name: string): NamedBitmap {
    const bitmap = this.find(name)
    if (bitmap === undefined) throw new CommandError(`Dirty bitmap '${name}' not found`)
    return bitmap
  }

  all(): readonly NamedBitmap[] {
    this.#follow()
    return this.#list
  }

  /**
   * @param but  what does not matter
   * @throws CommandError when it is in use, cannot be changed, or its content is not known
   */
  checkUsable(bitmap: NamedBitmap, ...but: readonly ('readOnly' | 'inconsistent')[]): void {
    if (bitmap.busy)
      throw new CommandError(
        `Bitmap '${bitmap.name}' is currently in use by another operation and cannot be used`,
      )
    if (bitmap.persistent && this.#owner?.readOnly === true && !but.includes('readOnly'))
      throw new CommandError(`Bitmap '${bitmap.name}' is readonly and cannot be modified`)
    if (bitmap.inconsistent && !but.includes('inconsistent'))
      throw new CommandError(`Bitmap '${bitmap.name}' is inconsistent and cannot be used`)
  }

  /** @throws CommandError when no bitmap of this kind can be added */
  checkNew({ name, granularity }: Pick<NewBitmap, 'name' | 'granularity'>): void {
    if (this.find(name) !== undefined) throw new CommandError(`Bitmap already exists: ${name}`)
    if (Buffer.byteLength(name) > MOST_NAME_BYTES) throw new CommandError(`Bitmap name too long: ${name}`)
    const size = this.#size()
    const least = 2 ** Math.ceil(Math.log2(Math.max(1, size / MOST_CHUNKS)))
    if (granularity < least)
      throw new CommandError(`Parameter 'granularity' expects at least ${least} for a disk of ${size} bytes`)
  }

  add(wanted: NewBitmap): BitmapChange {
    this.checkNew(wanted)
    const bits = new DirtyBitmap(this.#size(), wanted.granularity)
    const bitmap = new NamedBitmap({ ...wanted, bits, inconsistent: false }, this.#order++)
    this.#enter(bitmap)
    return { undo: () => this.#take(bitmap), keep: () => {} }
  }

  remove(bitmap: NamedBitmap): BitmapChange {
    this.#take(bitmap)
    this.#leaving.add(bitmap)
    const undo = () => {
      this.#leaving.delete(bitmap)
      this.#enter(bitmap)
    }
    return { undo, keep: () => this.#leaving.delete(bitmap) }
  }

  /** One as it was in another worker. */
  put(name: string, recording: boolean, bits: DirtyBitmap): void {
    const state = { name, bits, recording, persistent: false, inconsistent: false }
    this.#enter(new NamedBitmap(state, this.#order++))
  }

  /** Those that are stored in the image are these now; one that is in use stays as it is. */
  load(stored: readonly BitmapState[]): void {
    const orders = new Map(this.#list.map(({ name, order }) => [name, order]))
    this.#list = this.#list.filter(({ persistent, busy }) => !persistent || busy)
    for (const state of stored)
      if (!this.#list.some(({ name }) => name === state.name))
        this.#enter(new NamedBitmap(state, orders.get(state.name) ?? this.#order++))
  }

  freeze(bitmap: NamedBitmap): void {
    this.#follow()
    bitmap.freeze(this.#order++)
  }

  /** The newest first. */
  reports(): DirtyBitmapReport[] {
    this.#follow()
    return this.#list
      .flatMap((bitmap) => bitmap.reports())
      .sort((a, b) => b.order - a.order)
      .map(({ order: _, ...report }) => report)
  }

  #enter(bitmap: NamedBitmap): void {
    this.#list.push(bitmap)
    this.#added()
  }

  #take(bitmap: NamedBitmap): void {
    this.#list = this.#list.filter((other) => other !== bitmap)
  }

  #size(): number {
    return this.#owner?.size() ?? 0
  }

  /** Whoever changes the node's length does not have to know of its bitmaps. */
  #follow(): void {
    if (this.empty || this.#owner === undefined) return
    const size = this.#size()
    for (const bitmap of [...this.#list, ...this.#leaving])
      if (!bitmap.inconsistent && bitmap.bits.length !== size) bitmap.resize(size)
  }
}
