// SPDX-License-Identifier: Apache-2.0
// Throttle groups: several nodes share limits of bytes and requests per second. Used by the throttle driver; limits
// are set by the graph and may change while requests wait.
//
// Token bucket: each limit has a debt that drains at its rate; a request may go when no debt is above the burst, then
// adds its cost. The burst is a tenth of a second's worth, so the flow is even at the scale a user sees.

import { CommandError } from '../../errors.js'
import type { ThrottleLimits } from '../messages.js'

const BURST_SECONDS = 0.1

class Bucket {
  /** Per second; 0 = no limit. */
  rate = 0
  #debt = 0
  #updatedMs = 0

  /** Milliseconds until a request may go, 0 when now. */
  waitMs(nowMs: number): number {
    if (this.rate === 0) return 0
    this.#debt = Math.max(0, this.#debt - (this.rate * (nowMs - this.#updatedMs)) / 1000)
    this.#updatedMs = nowMs
    const excess = this.#debt - this.rate * BURST_SECONDS
    return excess <= 0 ? 0 : (excess / this.rate) * 1000
  }

  spend(cost: number): void {
    if (this.rate > 0) this.#debt += cost
  }
}

interface Waiter {
  readonly bytes: number
  readonly go: () => void
}

/** Requests of one direction, in order. */
class Lane {
  readonly waiting: Waiter[] = []
  timer: NodeJS.Timeout | undefined
  constructor(
    readonly bytes: readonly Bucket[],
    readonly requests: readonly Bucket[],
  ) {}
}

export class ThrottleGroup {
  readonly #total = new Bucket()
  readonly #totalRequests = new Bucket()
  readonly #own = { read: new Bucket(), write: new Bucket() }
  readonly #ownRequests = { read: new Bucket(), write: new Bucket() }
  readonly #lanes = {
    read: new Lane([this.#total, this.#own.read], [this.#totalRequests, this.#ownRequests.read]),
    write: new Lane([this.#total, this.#own.write], [this.#totalRequests, this.#ownRequests.write]),
  }

  constructor(limits: ThrottleLimits) {
    this.setLimits(limits)
  }

  setLimits(limits: ThrottleLimits): void {
    this.#total.rate = limits.bpsTotal
    this.#own.read.rate = limits.bpsRead
    this.#own.write.rate = limits.bpsWrite
    this.#totalRequests.rate = limits.iopsTotal
    this.#ownRequests.read.rate = limits.iopsRead
    this.#ownRequests.write.rate = limits.iopsWrite
    this.#pump(this.#lanes.read)
    this.#pump(this.#lanes.write)
  }

  /** Resolves when a request of so many bytes may go. First come, first served within a direction. */
  admit(direction: 'read' | 'write', bytes: number): Promise<void> {
    return new Promise((go) => {
      const lane = this.#lanes[direction]
      lane.waiting.push({ bytes, go })
      if (lane.waiting.length === 1) this.#pump(lane)
    })
  }

  #pump(lane: Lane): void {
    clearTimeout(lane.timer)
    for (let head = lane.waiting[0]; head !== undefined; head = lane.waiting[0]) {
      const now = performance.now()
      const waitMs = Math.max(...[...lane.bytes, ...lane.requests].map((bucket) => bucket.waitMs(now)))
      if (waitMs > 0) {
        lane.timer = setTimeout(() => this.#pump(lane), Math.ceil(waitMs))
        return
      }
      lane.waiting.shift()
      for (const bucket of lane.bytes) bucket.spend(head.bytes)
      for (const bucket of lane.requests) bucket.spend(1)
      head.go()
    }
  }
}

/** Throttle groups by id. */
export class ThrottleGroups {
  readonly #groups = new Map<string, ThrottleGroup>()

  /** Makes, changes or (null) forgets a group. Nodes of a forgotten group go on without limits. */
  set(id: string, limits: ThrottleLimits | null): void {
    const group = this.#groups.get(id)
    if (limits === null) {
      group?.setLimits(NO_LIMITS)
      this.#groups.delete(id)
    } else if (group === undefined) this.#groups.set(id, new ThrottleGroup(limits))
    else group.setLimits(limits)
  }

  /** Forgets all of them. */
  clear(): void {
    for (const id of [...this.#groups.keys()]) this.set(id, null)
  }

  /** @throws CommandError for an unknown id */
  get(id: string): ThrottleGroup {
    const group = this.#groups.get(id)
    if (group === undefined) throw new CommandError(`Throttle group '${id}' does not exist`)
    return group
  }
}

const NO_LIMITS: ThrottleLimits = {
  bpsTotal: 0,
  bpsRead: 0,
  bpsWrite: 0,
  iopsTotal: 0,
  iopsRead: 0,
  iopsWrite: 0,
}
