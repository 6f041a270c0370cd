// SPDX-License-Identifier: Apache-2.0
// A named bitmap as plain as can be: a set of chunks. What the real one must agree with.

export class BitmapModel {
  readonly granularity: number
  recording: boolean
  #dirty = new Set<number>()
  #successor: Set<number> | undefined

  constructor(granularity: number, recording: boolean) {
    this.granularity = granularity
    this.recording = recording
  }

  get busy(): boolean {
    return this.#successor !== undefined
  }

  get chunks(): number[] {
    return [...this.#dirty].sort((a, b) => a - b)
  }

  mark(offset: number, length: number): void {
    if (!this.recording || length === 0) return
    const last = Math.floor((offset + length - 1) / this.granularity)
    const into = this.#successor ?? this.#dirty
    for (let chunk = Math.floor(offset / this.granularity); chunk <= last; chunk++) into.add(chunk)
  }

  clear(): void {
    this.#dirty = new Set()
  }

  /** @param length  of the disk: a chunk that is cut off there stands for no more */
  merge(other: BitmapModel, length: number): void {
    for (const chunk of other.chunks) {
      const first = Math.floor((chunk * other.granularity) / this.granularity)
      const last = Math.floor((Math.min(length, (chunk + 1) * other.granularity) - 1) / this.granularity)
      for (let mine = first; mine <= last; mine++) this.#dirty.add(mine)
    }
  }

  /** Chunks that begin beyond the end are no more. */
  cut(length: number): void {
    const inside = (chunk: number) => chunk * this.granularity < length
    this.#dirty = new Set([...this.#dirty].filter(inside))
    this.#successor = this.#successor && new Set([...this.#successor].filter(inside))
  }

  freeze(): void {
    this.#successor = new Set()
  }

  /** @param left  what of the frozen was not dealt with; undefined: all of it */
  thaw(left: readonly number[] | undefined): void {
    const successor = this.#successor ?? new Set()
    this.#successor = undefined
    this.#dirty = new Set([...successor, ...(left ?? this.#dirty)])
  }
}
