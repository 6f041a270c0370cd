// SPDX-License-Identifier: Apache-2.0
// How full the buckets of a throttle group are. Used by ThrottleGroup. Pure: time is handed in.
//
// A bucket leaks at its rate, and a request may go while it is not full, and then fills it by its cost; so a request is
// never split. It holds a tenth of a second's worth, or a whole burst; then a second one, which leaks at the rate of
// bursts and holds a tenth of a second's worth, keeps the burst to its rate. As QEMU has it (docs/throttle.txt there).

import type { BucketLimits, ThrottleLimits } from '../../common/throttle-limits.js'

/** What goes at once however high the rate, seconds' worth of it. */
const EVEN_SECONDS = 0.1

export type Direction = 'read' | 'write'

/** Milliseconds until so much has leaked. */
function leakMs(units: number, rate: number): number {
  return units <= 0 ? 0 : (units / rate) * 1000
}

class Bucket {
  readonly #limits: BucketLimits
  #level = 0
  #burstLevel = 0

  constructor(limits: BucketLimits) {
    this.#limits = limits
  }

  leak(ms: number): void {
    const { rate, burst } = this.#limits
    this.#level = Math.max(0, this.#level - (rate * ms) / 1000)
    this.#burstLevel = Math.max(0, this.#burstLevel - (burst * ms) / 1000)
  }

  fill(units: number): void {
    this.#level += units
    this.#burstLevel += units
  }

  /** Milliseconds until a request may go, 0 when now. */
  waitMs(): number {
    const { rate, burst, burstSeconds } = this.#limits
    if (rate === 0) return 0
    const size = burst === 0 ? rate * EVEN_SECONDS : burst * burstSeconds
    const full = leakMs(this.#level - size, rate)
    if (full > 0 || burstSeconds === 1) return full
    return leakMs(this.#burstLevel - burst * EVEN_SECONDS, burst)
  }
}

export class ThrottleState {
  readonly #bytes: Readonly<Record<Direction, readonly Bucket[]>>
  readonly #requests: Readonly<Record<Direction, readonly Bucket[]>>
  readonly #all: readonly Bucket[]
  readonly #iopsSize: number
  #leaked: number

  /** @param now  monotonic, milliseconds; here and below */
  constructor(limits: ThrottleLimits, now: number) {
    const [bps, iops] = [new Bucket(limits.bpsTotal), new Bucket(limits.iopsTotal)]
    this.#bytes = { read: [bps, new Bucket(limits.bpsRead)], write: [bps, new Bucket(limits.bpsWrite)] }
    this.#requests = {
      read: [iops, new Bucket(limits.iopsRead)],
      write: [iops, new Bucket(limits.iopsWrite)],
    }
    const own = [...this.#bytes.write.slice(1), ...this.#requests.write.slice(1)]
    this.#all = [...this.#bytes.read, ...this.#requests.read, ...own]
    this.#iopsSize = limits.iopsSize
    this.#leaked = now
  }

  /** Milliseconds until a request may go, 0 when now. */
  waitMs(direction: Direction, now: number): number {
    const passed = now - this.#leaked
    this.#leaked = now
    for (const bucket of this.#all) bucket.leak(passed)
    const buckets = [...this.#bytes[direction], ...this.#requests[direction]]
    return Math.max(...buckets.map((bucket) => bucket.waitMs()))
  }

  /** A request goes. */
  account(direction: Direction, bytes: number): void {
    for (const bucket of this.#bytes[direction]) bucket.fill(bytes)
    const units = this.#iopsSize === 0 ? 1 : Math.max(1, bytes / this.#iopsSize)
    for (const bucket of this.#requests[direction]) bucket.fill(units)
  }
}
