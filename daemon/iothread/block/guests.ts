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
/** A look ends after so many requests, or after so many milliseconds with nothing copied and one request at least. */
const PROBE_REQUESTS = 8
const PROBE_MS = 10
/** Or after so many altogether: a piece of a copy may be stuck, or take no heed, and the others go on beside it. */
const LONGEST_PROBE_MS = 50
/** Copies heed somebody whose request takes no longer, milliseconds: it may never end. */
const STUCK_MS = 5000
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
  /** Requests under way. */
  #open = 0
  /** Pieces of copies under way, and when there was one last. */
  #pieces = 0
  #copiedAt = Number.NEGATIVE_INFINITY
  #probedAt = Number.NEGATIVE_INFINITY
  /** A look that is under way. */
  #probe: Probe | undefined

  /** @param now  monotonic clock, milliseconds */
  constructor(now = () => performance.now()) {
    this.#now = now
  }

  /** Whether anybody asked for something just now, or waits for it. */
  get active(): boolean {
    const quietMs = this.#now() - this.#seenAt
    return quietMs < AWAY_MS || (this.#open > 0 && quietMs < STUCK_MS)
  }

  /** Somebody asks for what says nothing about the disk. */
  seen(): void {
    this.#seenAt = this.#now()
  }

  /** A request begins, whose end is told by ended() or failed(). @returns for ended() */
  began(): number {
    this.#open++
    this.seen()
    return this.#seenAt
  }

  /** How long it took says nothing. */
  failed(): void {
    this.#open--
    this.seen()
  }

  /** @param length  bytes, 0 of a flush */
  ended(kind: GuestRequest, length: number, began: number): void {
    const now = this.#now()
    this.#open--
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
      this.#probe = { began: now, calmSince: undefined, requests: 0 }
    }
    if (this.#pieces === 0) this.#probe.calmSince ??= now
    if (isOver(this.#probe, now)) this.#endProbe()
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

interface Probe {
  readonly began: number
  /** Since then nothing is copied. */
  calmSince: number | undefined
  /** Those that met no copy. */
  requests: number
}

function isOver({ began, calmSince, requests }: Probe, now: number): boolean {
  if (now - began >= LONGEST_PROBE_MS) return true
  return calmSince !== undefined && requests > 0 && now - calmSince >= PROBE_MS
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
