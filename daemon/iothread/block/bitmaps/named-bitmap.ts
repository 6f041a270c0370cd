// SPDX-License-Identifier: Apache-2.0
// One named dirty bitmap of a node: what changed since it was cleared. Made and marked by NodeBitmaps.
//
// A job that uses it freezes what is dirty now; changes from then on go to a successor. In the end the successor takes
// the bitmap's place, or both are merged. Changes by commands can be undone until they are kept: what is marked
// meanwhile is marked in the former content (a shadow) too.

import { CommandError } from '../../../errors.js'
import type { BitmapContent, DirtyBitmapReport } from '../../messages-bitmaps.js'
import { DirtyBitmap } from '../dirty-bitmap.js'

/** A change that was made. One of the two is called, once. */
export interface BitmapChange {
  undo(): void
  keep(): void
}

export interface BitmapState {
  readonly name: string
  readonly bits: DirtyBitmap
  readonly recording: boolean
  readonly persistent: boolean
  /** Its content is not known: it can only be removed. */
  readonly inconsistent: boolean
}

export class NamedBitmap {
  readonly name: string
  readonly persistent: boolean
  readonly inconsistent: boolean
  /** In use by a job or an export: commands leave it alone. */
  busy = false
  /** Takes what changes; where there is a successor, that one does. */
  recording: boolean
  /** A later one is listed before it. */
  order: number
  #bits: DirtyBitmap
  #successor: { readonly bits: DirtyBitmap; readonly order: number } | undefined
  /** Former contents, for undoing. */
  readonly #shadows = new Set<DirtyBitmap>()
  /** The longest that the node was, bytes. */
  #longest: number

  constructor({ name, bits, recording, persistent, inconsistent }: BitmapState, order: number) {
    this.name = name
    this.persistent = persistent
    this.inconsistent = inconsistent
    this.recording = recording && !inconsistent
    this.order = order
    this.#bits = bits
    this.#longest = bits.length
  }

  get granularity(): number {
    return this.#bits.granularity
  }

  /** What is dirty; while it is frozen, what was then. Not to be changed. */
  get bits(): DirtyBitmap {
    return this.#bits
  }

  /** What is dirty now, and what of that was frozen: what is to be stored if nothing further is known. Not to be changed. */
  everything(): DirtyBitmap {
    if (this.#successor === undefined) return this.#bits
    const all = this.#bits.copy()
    all.merge(this.#successor.bits)
    return all
  }

  mark(offset: number, length: number): void {
    if (!this.recording) return
    const { bits } = this.#successor ?? { bits: this.#bits }
    bits.set(offset, length)
    for (const shadow of this.#shadows) shadow.set(offset, length)
  }

  /** The node's length changed. New space is clean, but for space that was cut off before: what it held has changed. */
  resize(length: number): void {
    const old = this.#bits.length
    for (const bits of this.#contents()) {
      bits.resize(length)
      if (length > old && this.#longest > old) bits.set(old, Math.min(length, this.#longest) - old)
    }
    this.#longest = Math.max(this.#longest, length)
  }

  /** From now on changes go to a successor. @param order  the successor's */
  freeze(order: number): void {
    this.#successor = { bits: new DirtyBitmap(this.#bits.length, this.granularity), order }
  }

  /**
   * The end of being frozen.
   * @param done  what was frozen is dealt with, but for what is in `left`; else nothing of it is
   */
  thaw(done: boolean, left: DirtyBitmap | undefined): void {
    const successor = this.#successor
    this.#successor = undefined
    if (successor === undefined) return
    if (!done) {
      this.#bits.merge(successor.bits)
      return
    }
    this.#bits = successor.bits
    this.order = successor.order
    if (left !== undefined) this.#bits.merge(left)
  }

  clear(): BitmapChange {
    return this.#replace(new DirtyBitmap(this.#bits.length, this.granularity))
  }

  /** @throws CommandError when a source is of another length */
  merge(sources: readonly DirtyBitmap[]): BitmapChange {
    for (const { length } of sources)
      if (length !== this.#bits.length)
        throw new CommandError(
          `Bitmaps are of different sizes (destination size is ${this.#bits.length}, source size is ${length}) and can't be merged`,
        )
    const merged = this.#bits.copy()
    for (const source of sources) merged.merge(source)
    return this.#replace(merged)
  }

  record(recording: boolean): BitmapChange {
    const before = this.recording
    this.recording = recording
    return {
      undo: () => {
        this.recording = before
      },
      keep: () => {},
    }
  }

  content(): BitmapContent {
    const { length, granularity, chunks } = this.#bits
    const bits = new Uint8Array(Math.ceil(chunks / 8))
    this.#bits.pack(0, bits)
    return { length, granularity, bits }
  }

  /** The successor is told too: it is a bitmap, of no name. */
  reports(): (DirtyBitmapReport & { readonly order: number })[] {
    const { name, persistent, busy, granularity, recording, order } = this
    const own = {
      ...{ name, recording, persistent, busy },
      ...(this.inconsistent && { inconsistent: true }),
      ...{ granularity, count: this.#bits.count, order },
    }
    if (this.#successor === undefined) return [own]
    const { bits, order: later } = this.#successor
    return [own, { recording, persistent: false, busy: false, granularity, count: bits.count, order: later }]
  }

  #replace(bits: DirtyBitmap): BitmapChange {
    const former = this.#bits
    this.#bits = bits
    this.#shadows.add(former)
    return {
      undo: () => {
        this.#shadows.delete(former)
        this.#bits = former
      },
      keep: () => void this.#shadows.delete(former),
    }
  }

  #contents(): DirtyBitmap[] {
    const successor = this.#successor === undefined ? [] : [this.#successor.bits]
    return [this.#bits, ...successor, ...this.#shadows]
  }
}

/** A bitmap with this content. */
export function bitmapOf({ length, granularity, bits }: BitmapContent): DirtyBitmap {
  const bitmap = new DirtyBitmap(length, granularity)
  bitmap.unpack(0, bits)
  return bitmap
}
