// SPDX-License-Identifier: Apache-2.0
// How long the requests of one export take while nothing is copied, and what a time is, measured by that. Used by Guests.
// Of each kind and size the last few times are kept. Their median is what is usual. Some disks and some clients have requests
// that take several times as long also when nothing is copied: how many of them do is known too, so that no copy is blamed for it.
// Pure: times are handed in.

/** A request that takes so many times as long as usual is late. */
const LATE = 1.75
/** Who waits longer than that, milliseconds, and as late as never before, has felt enough for a whole round. */
const LONG_MS = 50
/** Requests of a kind that are remembered. */
const REMEMBERED = 32
/** Requests up to these lengths are alike, bytes. */
const ALIKE = [16 * 1024, 128 * 1024, Number.POSITIVE_INFINITY]

const KINDS = ['read', 'write', 'durable-write', 'flush'] as const
export type GuestRequest = (typeof KINDS)[number]

/** 'stalled': late as none was while nothing was copied, and long. */
export type Judgement = 'fine' | 'late' | 'stalled'

export class UsualTimes {
  readonly #usual = Array.from({ length: KINDS.length * ALIKE.length }, () => new Usual())

  /** @param length  bytes, 0 of a flush */
  of(kind: GuestRequest, length: number): Usual {
    const size = ALIKE.findIndex((most) => length <= most)
    return this.#usual[KINDS.indexOf(kind) * ALIKE.length + size] ?? new Usual()
  }
}

/** Times of one kind of requests, milliseconds. */
export class Usual {
  readonly #times: number[] = []
  #next = 0
  /** Of the times there are; made when it is asked for. */
  #facts: { readonly median: number; readonly longest: number; readonly lateShare: number } | undefined

  add(ms: number): void {
    this.#times[this.#next] = ms
    this.#next = (this.#next + 1) % REMEMBERED
    this.#facts = undefined
  }

  /** What a time is that was taken beside a copy; undefined: that cannot be said yet. */
  judge(ms: number): Judgement | undefined {
    if (this.#times.length === 0) return ms > LONG_MS ? 'stalled' : undefined
    const { median, longest } = this.#known()
    if (ms <= LATE * median) return 'fine'
    return ms > LONG_MS && ms > LATE * longest ? 'stalled' : 'late'
  }

  /** The part of requests that are late while nothing is copied, 0 to 1. */
  get lateShare(): number {
    return this.#times.length === 0 ? 0 : this.#known().lateShare
  }

  #known() {
    if (this.#facts === undefined) {
      const sorted = [...this.#times].sort((one, other) => one - other)
      const median = sorted[sorted.length >> 1] ?? 0
      const late = sorted.filter((ms) => ms > LATE * median).length
      this.#facts = { median, longest: sorted.at(-1) ?? 0, lateShare: late / sorted.length }
    }
    return this.#facts
  }
}
