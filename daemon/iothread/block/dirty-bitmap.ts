// SPDX-License-Identifier: Apache-2.0
// Dirty bitmap: which chunks of a node changed, or have to be copied (again). Used by the copy engine and by named
// bitmaps; one bit per chunk, a summary bit per 32 of them, so that a clean terabyte is skipped in microseconds.
// Invariant: a summary bit is set exactly when its word holds a set bit; bits beyond the last chunk are clear.

/** A dirty byte range. */
export interface Area {
  readonly offset: number
  readonly length: number
}

const BITS = 32

export class DirtyBitmap {
  #words: Uint32Array
  #summary: Uint32Array
  #chunks: number
  #length: number
  #dirtyChunks = 0

  /**
   * @param length       bytes covered
   * @param granularity  bytes per bit, power of two
   */
  constructor(
    length: number,
    readonly granularity: number,
  ) {
    this.#length = length
    this.#chunks = Math.ceil(length / granularity)
    this.#words = new Uint32Array(Math.ceil(this.#chunks / BITS))
    this.#summary = new Uint32Array(Math.ceil(this.#words.length / BITS))
  }

  /** Bytes covered. */
  get length(): number {
    return this.#length
  }

  /** Bits in it. */
  get chunks(): number {
    return this.#chunks
  }

  /** Bytes that are dirty, counted in whole chunks (as managers see it: the last one may reach beyond the end). */
  get count(): number {
    return this.#dirtyChunks * this.granularity
  }

  /** Bytes of the node that are dirty: the last chunk counts only as far as the node goes. */
  get bytes(): number {
    const overhang = this.#chunks * this.granularity - this.length
    return this.count - (overhang > 0 && this.#isSet(this.#chunks - 1) ? overhang : 0)
  }

  get clean(): boolean {
    return this.#dirtyChunks === 0
  }

  /** Marks every chunk the range touches. Parts beyond the end are ignored. */
  set(offset: number, length: number): void {
    this.#change(Math.floor(offset / this.granularity), this.#chunkAfter(offset, length), true)
  }

  /** Unmarks the chunks of a range. Both ends must lie on chunk borders or at the end of the node. */
  clear(offset: number, length: number): void {
    this.#change(offset / this.granularity, this.#chunkAfter(offset, length), false)
  }

  clearAll(): void {
    this.#words.fill(0)
    this.#summary.fill(0)
    this.#dirtyChunks = 0
  }

  /** Covers more or less from now on. What is new is clean. */
  resize(length: number): void {
    const chunks = Math.ceil(length / this.granularity)
    if (chunks < this.#chunks) this.#change(chunks, this.#chunks, false)
    const words = new Uint32Array(Math.ceil(chunks / BITS))
    words.set(this.#words.subarray(0, words.length))
    const summary = new Uint32Array(Math.ceil(words.length / BITS))
    summary.set(this.#summary.subarray(0, summary.length))
    this.#length = length
    this.#chunks = chunks
    this.#words = words
    this.#summary = summary
  }

  /** Marks what another bitmap, of whatever granularity, has dirty. */
  merge(other: DirtyBitmap): void {
    if (other.granularity === this.granularity && other.#chunks === this.#chunks) {
      for (let index = other.#nextWord(0); index < other.#words.length; index = other.#nextWord(index + 1))
        this.#changeWord(index, other.#words[index] ?? 0, true)
      return
    }
    for (let at = 0; ; ) {
      const area = other.nextDirty(at, 2 ** 40)
      if (area === undefined) return
      this.set(area.offset, area.length)
      at = area.offset + area.length
    }
  }

  copy(): DirtyBitmap {
    const copy = new DirtyBitmap(this.#length, this.granularity)
    copy.#words.set(this.#words)
    copy.#summary.set(this.#summary)
    copy.#dirtyChunks = this.#dirtyChunks
    return copy
  }

  /** Some of its bits as images store them, eight in a byte, the lowest first. @param from  of a byte, multiple of 4 */
  pack(from: number, into: Uint8Array): void {
    for (let at = 0; at < into.length; at += 4) {
      const word = this.#words[(from + at) / 4] ?? 0
      for (let byte = 0; byte < 4 && at + byte < into.length; byte++) into[at + byte] = word >>> (8 * byte)
    }
  }

  /** Takes bits from what pack() makes; what they say beyond the end does not count. */
  unpack(from: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += 4) {
      const index = (from + at) / 4
      const left = this.#chunks - index * BITS
      if (left <= 0) return
      const word =
        ((bytes[at] ?? 0) |
          ((bytes[at + 1] ?? 0) << 8) |
          ((bytes[at + 2] ?? 0) << 16) |
          ((bytes[at + 3] ?? 0) << 24)) >>>
        0
      if (word !== 0) this.#changeWord(index, left < BITS ? word & (2 ** left - 1) : word, true)
    }
  }

  #chunkAfter(offset: number, length: number): number {
    return length === 0 ? 0 : Math.min(this.#chunks, Math.ceil((offset + length) / this.granularity))
  }

  #change(first: number, end: number, dirty: boolean): void {
    for (let chunk = first; chunk < end; ) {
      const index = Math.floor(chunk / BITS)
      const from = chunk % BITS
      const bits = Math.min(BITS - from, end - chunk)
      const mask = bits === BITS ? 0xffffffff : (((1 << bits) - 1) << from) >>> 0
      this.#changeWord(index, mask, dirty)
      chunk += bits
    }
  }

  #changeWord(index: number, mask: number, dirty: boolean): void {
    const before = this.#words[index] ?? 0
    const after = (dirty ? before | mask : before & ~mask) >>> 0
    if (after === before) return
    this.#words[index] = after
    this.#dirtyChunks += popcount(after) - popcount(before)
    const word = Math.floor(index / BITS)
    const bit = 1 << (index % BITS)
    this.#summary[word] =
      (after === 0 ? (this.#summary[word] ?? 0) & ~bit : (this.#summary[word] ?? 0) | bit) >>> 0
  }

  /**
   * Next dirty area at or after `from`.
   * @param from   offset in bytes; need not be aligned
   * @param limit  longest area to return, bytes, multiple of the granularity
   * @returns the area (aligned, clipped to the end of the node), or undefined when nothing from there on is dirty
   */
  nextDirty(from: number, limit: number): Area | undefined {
    if (from >= this.length) return undefined
    const first = this.#findSet(Math.floor(from / this.granularity))
    if (first === undefined) return undefined
    const most = Math.min(this.#chunks, first + Math.max(1, Math.floor(limit / this.granularity)))
    let end = first + 1
    while (end < most) {
      if (end % BITS === 0 && end + BITS <= most && this.#words[end / BITS] === 0xffffffff) end += BITS
      else if (this.#isSet(end)) end++
      else break
    }
    const offset = first * this.granularity
    return { offset, length: Math.min(this.length, end * this.granularity) - offset }
  }

  /** Where a run of chunks that are alike ends, from `offset` on, at most at `limit`. What is not covered is clean. */
  run(offset: number, limit: number): { readonly dirty: boolean; readonly end: number } {
    const chunk = Math.floor(offset / this.granularity)
    const clipped = (at: number) => Math.min(limit, at * this.granularity)
    if (!this.#isSet(chunk)) {
      const next = this.#findSet(chunk)
      return { dirty: false, end: next === undefined ? limit : clipped(next) }
    }
    const area = this.nextDirty(offset, limit - chunk * this.granularity)
    return { dirty: true, end: clipped(chunk + Math.ceil((area?.length ?? 0) / this.granularity)) }
  }

  #isSet(chunk: number): boolean {
    return (((this.#words[Math.floor(chunk / BITS)] ?? 0) >>> (chunk % BITS)) & 1) === 1
  }

  /** First set bit at or after a chunk: the rest of its word, then whole words by way of the summary. */
  #findSet(chunk: number): number | undefined {
    if (chunk >= this.#chunks) return undefined
    const index = Math.floor(chunk / BITS)
    const here = ((this.#words[index] ?? 0) >>> (chunk % BITS)) << (chunk % BITS)
    if (here !== 0) return index * BITS + lowestBit(here)
    const found = this.#nextWord(index + 1)
    return found < this.#words.length ? found * BITS + lowestBit(this.#words[found] ?? 0) : undefined
  }

  /** First word at or after an index that holds a set bit; their number when there is none. */
  #nextWord(index: number): number {
    for (let word = Math.floor(index / BITS); word < this.#summary.length; word++) {
      const skip = word === Math.floor(index / BITS) ? index % BITS : 0
      const summary = ((this.#summary[word] ?? 0) >>> skip) << skip
      if (summary !== 0) return word * BITS + lowestBit(summary)
    }
    return this.#words.length
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word)
}

function popcount(word: number): number {
  let n = word - ((word >>> 1) & 0x55555555)
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333)
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}
