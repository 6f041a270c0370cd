// SPDX-License-Identifier: Apache-2.0
// What the users of a worker's disks feel of its background copies. Exports tell it of the requests of their clients, copies
// of what they do; it knows whether anybody is there, how long a request usually takes, and how much longer one took now.
//
// What is usual is what requests took while nothing was copied, as the median of the last few of their kind. A copy that
// goes on and on would never let that be seen, so copies hold back for a moment now and then, while somebody is there:
//
//     copies   ████████████████░░░░████████████████████████████░░░░██████
//                          drained ├─┤ usual times            PROBE_EVERY_MS later
//
// Time is handed in, so that tests have their own.

/** Who asked for nothing for so long is not there, milliseconds. */
const AWAY_MS = 100
/** Time from the end of one look at what is usual to the next, milliseconds. */
const PROBE_EVERY_MS = 2000
/** A look ends after so many milliseconds with nothing copied, or so many requests. */
const PROBE_MS = 10
const PROBE_REQUESTS = 8
/** Requests of a kind that are remembered. */
const REMEMBERED = 15
/** Requests up to these lengths are alike, bytes. */
const ALIKE = [16 * 1024, 128 * 1024, Number.POSITIVE_INFINITY]

const KINDS = ['read', 'write', 'durable-write', 'flush'] as const
export type GuestRequest = (typeof KINDS)[number]

/** Hears how many times as long as usual a request took that met a copy, and from when until when. */
export type Felt = (slowdown: number, began: number, ended: number) => void

export class Guests {
  readonly #now: () => number
  /** By kind and length. */
  readonly #usual = Array.from({ length: KINDS.length * ALIKE.length }, () => new Usual())
  readonly #felt = new Set<Felt>()
  readonly #waiting = new Set<() => void>()
  #seenAt = Number.NEGATIVE_INFINITY
  /** Pieces of copies under way, and when there was one last. */
  #pieces = 0
  #copiedAt = Number.NEGATIVE_INFINITY
  #probedAt = Number.NEGATIVE_INFINITY
  /** A look that is under way: requests seen, and since when nothing is copied. */
  #probe: { requests: number; since: number | undefined } | undefined

  /** @param now  monotonic clock, milliseconds */
  constructor(now = () => performance.now()) {
    this.#now = now
  }

  /** Whether anybody asked for something just now. */
  get active(): boolean {
    return this.#now() - this.#seenAt < AWAY_MS
  }

  /** A request begins. @returns for ended() */
  began(): number {
    this.#seenAt = this.#now()
    return this.#seenAt
  }

  /** @param length  bytes, 0 of a flush */
  ended(kind: GuestRequest, length: number, began: number): void {
    const now = this.#now()
    this.#seenAt = now
    const calm = this.#pieces === 0 && this.#copiedAt <= began
    const size = ALIKE.findIndex((most) => length <= most)
    const usual = this.#usual[KINDS.indexOf(kind) * ALIKE.length + size]
    if (calm) {
      usual?.add(now - began)
      if (this.#probe !== undefined && ++this.#probe.requests >= PROBE_REQUESTS) this.#endProbe()
    } else if (usual?.median !== undefined && this.#probe === undefined) {
      for (const felt of this.#felt) felt((now - began) / usual.median, began, now)
    }
  }

  /** A piece of a copy begins. */
  copying(): void {
    this.#pieces++
  }

  copied(): void {
    this.#pieces--
    this.#copiedAt = this.#now()
    this.#wake()
  }

  /** Whether copies are to begin nothing, so that it can be seen what is usual. To be asked again after whenChanged(). */
  get listening(): boolean {
    if (!this.active) {
      this.#probe = undefined
      return false
    }
    const now = this.#now()
    if (this.#probe === undefined) {
      if (now - this.#probedAt < PROBE_EVERY_MS) return false
      this.#probe = { requests: 0, since: undefined }
    }
    if (this.#pieces > 0) return true
    this.#probe.since ??= now
    if (now - this.#probe.since >= PROBE_MS) this.#endProbe()
    return this.#probe !== undefined
  }

  /** Calls once, when a piece of a copy has ended, or a look at what is usual. */
  whenChanged(call: () => void): void {
    this.#waiting.add(call)
  }

  addListener(felt: Felt): Disposable {
    this.#felt.add(felt)
    return { [Symbol.dispose]: () => this.#felt.delete(felt) }
  }

  #endProbe(): void {
    this.#probe = undefined
    this.#probedAt = this.#now()
    this.#wake()
  }

  #wake(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const call of waiting) call()
  }
}

/** How long requests of one kind took last. */
class Usual {
  readonly #times: number[] = []
  #next = 0
  #median: number | undefined

  add(time: number): void {
    this.#times[this.#next] = time
    this.#next = (this.#next + 1) % REMEMBERED
    this.#median = undefined
  }

  /** Undefined: there was none yet. */
  get median(): number | undefined {
    this.#median ??= [...this.#times].sort((one, other) => one - other)[this.#times.length >> 1]
    return this.#median
  }
}
