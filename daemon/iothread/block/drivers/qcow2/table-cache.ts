// SPDX-License-Identifier: Apache-2.0
// Cache of slices of tables (L2 tables or refcount blocks), bounded in bytes. Used by the parts of the qcow2 driver.
// Slices that were changed stay until the commit wrote them; when nothing but changed ones is left, room is made by one.
// Invariant: a slice is in the cache at most once, so whoever has it sees every change.

import assert from 'node:assert/strict'
import type { Image } from './image.js'

/** Slices get their memory in pieces of this many bytes: few enough that a cache which shrinks gives memory back. */
const SLAB = 65536

export interface TableSlice {
  /** Host offset, bytes. */
  readonly offset: number
  readonly view: DataView
  /** Differs from the disk. Changed between awaits only, by the cache. */
  dirty: boolean
  /** Users that hold it across awaits: it is not dropped. */
  pins: number
  /** Looked at since the last search for room. */
  used: boolean
}

export class TableCache {
  /** Bytes of a slice, a power of two, at most a cluster. */
  readonly sliceSize: number
  readonly #image: Image
  /** Slices. */
  #limit = 2
  /** Writes changed slices of this and other caches in their order. */
  readonly #commit: () => Promise<void>
  /** By host offset; the order is that of the search for room. */
  readonly #slices = new Map<number, TableSlice>()
  readonly #loading = new Map<number, Promise<TableSlice>>()
  /** How many of those being loaded have room. */
  #placed = 0
  /** Runs of slices being written. */
  #writing = 0
  /** Woken when one that is loaded or written is. */
  #waiting: (() => void)[] = []
  /** Memory of dropped slices. Whoever got such a slice just now may read it until its turn of the loop ends. */
  #spare: DataView[] = []
  #dropped: DataView[] = []
  #dirty = 0

  /** @param bytes  kept at most; at least two slices are */
  constructor(image: Image, sliceSize: number, bytes: number, commit: () => Promise<void>) {
    this.#image = image
    this.sliceSize = sliceSize
    this.#commit = commit
    this.keepAtMost(bytes)
  }

  /** @param bytes  kept at most from the next slice on; at least two slices are */
  keepAtMost(bytes: number): void {
    this.#limit = Math.max(2, Math.floor(bytes / this.sliceSize))
  }

  /** Slices in memory, and those that are being read. */
  get held(): number {
    return this.#slices.size + this.#placed
  }

  get dirty(): boolean {
    return this.#dirty > 0
  }

  /** The slice when it is in memory. */
  peek(offset: number): TableSlice | undefined {
    const slice = this.#slices.get(offset)
    if (slice !== undefined) slice.used = true
    return slice
  }

  /** @param offset  host offset, a multiple of the slice size */
  get(offset: number): TableSlice | Promise<TableSlice> {
    return this.peek(offset) ?? this.#load(offset, true)
  }

  /**
   * Calls `work`, which is synchronous, with a slice that is in the cache until it returns. What get() gave before an
   * await may have been dropped since: a change of it would be lost.
   */
  async use<T>(offset: number, work: (slice: TableSlice) => T): Promise<T> {
    for (;;) {
      const slice = this.peek(offset)
      if (slice !== undefined) return work(slice)
      await this.get(offset)
    }
  }

  /** A slice that is all zero and not on the disk yet. */
  async create(offset: number): Promise<TableSlice> {
    const slice = this.peek(offset)
    if (slice === undefined) return await this.#load(offset, false)
    bytesOf(slice).fill(0)
    this.changed(slice)
    return slice
  }

  /** All slices of a new table, from the last to the first, which is there in the end however small the cache is. */
  async createAll(from: number, length: number): Promise<void> {
    for (let at = from + length - this.sliceSize; at >= from; at -= this.sliceSize) await this.create(at)
  }

  changed(slice: TableSlice): void {
    assert(this.#slices.get(slice.offset) === slice)
    if (!slice.dirty) this.#dirty += 1
    slice.dirty = true
  }

  /** Writes every changed slice. One that is changed again meanwhile stays changed. */
  async writeBack(): Promise<void> {
    const changed = [...this.#slices.values()].filter((slice) => slice.dirty)
    changed.sort((a, b) => a.offset - b.offset)
    for (const run of runs(changed, this.sliceSize)) {
      const bytes = new Uint8Array(run.length * this.sliceSize)
      for (const [index, slice] of run.entries()) {
        bytes.set(bytesOf(slice), index * this.sliceSize)
        this.#clean(slice)
        // Dropped now, it would be read again from where it is just being written.
        slice.pins += 1
      }
      this.#writing += 1
      try {
        await this.#image.write(run[0]?.offset ?? 0, bytes)
      } catch (error) {
        for (const slice of run) if (this.#slices.get(slice.offset) === slice) this.changed(slice)
        throw error
      } finally {
        for (const slice of run) slice.pins -= 1
        this.#writing -= 1
        this.#wake()
      }
    }
  }

  /** Forgets slices of tables that are no more, changed or not. */
  forget(from: number, length: number): void {
    for (let at = from; at < from + length; at += this.sliceSize) {
      const slice = this.#slices.get(at)
      if (slice === undefined) continue
      this.#clean(slice)
      this.#slices.delete(at)
    }
  }

  /** Forgets what nobody looked at since the last call, or since the last search for room. */
  forgetUnused(): void {
    this.#spare = []
    for (const slice of [...this.#slices.values()]) {
      if (!slice.used && !slice.dirty && slice.pins === 0) this.#slices.delete(slice.offset)
      slice.used = false
    }
  }

  /** Forgets everything; nothing may be changed. */
  clear(): void {
    this.#slices.clear()
    this.#spare = []
    this.#dirty = 0
  }

  #clean(slice: TableSlice): void {
    if (slice.dirty) this.#dirty -= 1
    slice.dirty = false
  }

  #load(offset: number, read: boolean): Promise<TableSlice> {
    const under = this.#loading.get(offset)
    if (under !== undefined) return under
    const loading = this.#fetch(offset, read).finally(() => this.#loading.delete(offset))
    this.#loading.set(offset, loading)
    return loading
  }

  async #fetch(offset: number, read: boolean): Promise<TableSlice> {
    await this.#place()
    const slice: TableSlice = { offset, view: this.#memory(), dirty: false, pins: 0, used: true }
    try {
      if (read) await this.#image.readInto(offset, bytesOf(slice))
      else bytesOf(slice).fill(0)
      this.#slices.set(offset, slice)
    } finally {
      this.#placed -= 1
      this.#wake()
    }
    // A new one is not on the disk: it is changed from the start, or somebody's search for room would drop it.
    if (!read) this.changed(slice)
    return slice
  }

  /** Memory of a slice. A buffer of its own for each would cost some 300 bytes more. */
  #memory(): DataView {
    const spare = this.#spare.pop()
    if (spare !== undefined) return spare
    const slab = new ArrayBuffer(Math.max(SLAB, this.sliceSize))
    for (let at = this.sliceSize; at + this.sliceSize <= slab.byteLength; at += this.sliceSize)
      this.#spare.push(new DataView(slab, at, this.sliceSize))
    return new DataView(slab, 0, this.sliceSize)
  }

  /** Room for one more: others are dropped for it. When all of them are pinned by users there are more for a while. */
  async #place(): Promise<void> {
    while (this.held >= this.#limit) {
      const found = this.#victim()
      if (found !== undefined) {
        this.#slices.delete(found.offset)
        this.#keep(found.view)
      } else if (this.#dirty > 0) await this.#commit()
      else if (this.#placed + this.#writing > 0)
        await new Promise<void>((resolve) => this.#waiting.push(resolve))
      else break
    }
    this.#placed += 1
  }

  /** Later: who asked for what is there now comes first, or it would be dropped before it was looked at. */
  #wake(): void {
    const waiting = this.#waiting.splice(0)
    if (waiting.length === 0) return
    setImmediate(() => {
      for (const wake of waiting) wake()
    })
  }

  #keep(view: DataView): void {
    if (this.#dropped.length === 0) {
      setImmediate(() => {
        this.#spare.push(...this.#dropped)
        this.#dropped = []
      })
    }
    this.#dropped.push(view)
  }

  /** The clean slice that was not looked at for longest: those looked at go to the end once. */
  #victim(): TableSlice | undefined {
    let left = this.#slices.size * 2
    for (const slice of this.#slices.values()) {
      if (left-- === 0) return undefined
      if (!slice.used && !slice.dirty && slice.pins === 0) return slice
      slice.used = false
      this.#slices.delete(slice.offset)
      this.#slices.set(slice.offset, slice)
    }
    return undefined
  }
}

export function bytesOf({ view }: TableSlice): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
}

/** Slices next to each other, at most 64 KiB at once; `slices` is sorted. */
function runs(slices: readonly TableSlice[], sliceSize: number): TableSlice[][] {
  const most = Math.max(1, 65536 / sliceSize)
  const found: TableSlice[][] = []
  for (const slice of slices) {
    const run = found.at(-1)
    const last = run?.at(-1)
    if (
      run !== undefined &&
      last !== undefined &&
      run.length < most &&
      last.offset + sliceSize === slice.offset
    ) {
      run.push(slice)
    } else found.push([slice])
  }
  return found
}
