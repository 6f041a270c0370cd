// SPDX-License-Identifier: Apache-2.0
// Throttle groups: several nodes share limits of bytes and requests per second. Used by the throttle driver; limits
// are set by the graph and may change while requests wait.
// Invariant: requests of one node and direction go in their order; the nodes of a group take turns, so one that asks
// for much does not keep the others waiting.

import { NO_LIMITS, type ThrottleLimits } from '../../common/throttle-limits.js'
import { CommandError } from '../../errors.js'
import { type Direction, ThrottleState } from './throttle-state.js'

interface Waiter {
  readonly bytes: number
  readonly go: () => void
}

/** Requests of one direction that wait. */
class Lane {
  /** By node; whose turn it is comes first. None is empty. */
  readonly #waiting = new Map<string, Waiter[]>()
  timer: NodeJS.Timeout | undefined

  get empty(): boolean {
    return this.#waiting.size === 0
  }

  add(node: string, waiter: Waiter): void {
    const own = this.#waiting.get(node)
    if (own === undefined) this.#waiting.set(node, [waiter])
    else own.push(waiter)
  }

  /** Takes the next request out; then it is the next node's turn. */
  next(): Waiter | undefined {
    for (const [node, [first, ...rest]] of this.#waiting) {
      this.#waiting.delete(node)
      if (rest.length > 0) this.#waiting.set(node, rest)
      return first
    }
    return undefined
  }
}

export class ThrottleGroup {
  readonly #lanes: Readonly<Record<Direction, Lane>> = { read: new Lane(), write: new Lane() }
  #state: ThrottleState

  constructor(limits: ThrottleLimits) {
    this.#state = new ThrottleState(limits, performance.now())
  }

  /** What went before does not count any more. */
  setLimits(limits: ThrottleLimits): void {
    this.#state = new ThrottleState(limits, performance.now())
    this.#pump('read')
    this.#pump('write')
  }

  /** Resolves when a request of so many bytes may go. */
  admit(node: string, direction: Direction, bytes: number): Promise<void> {
    return new Promise((go) => {
      const lane = this.#lanes[direction]
      const idle = lane.empty
      lane.add(node, { bytes, go })
      if (idle) this.#pump(direction)
    })
  }

  #pump(direction: Direction): void {
    const lane = this.#lanes[direction]
    clearTimeout(lane.timer)
    while (!lane.empty) {
      const waitMs = this.#state.waitMs(direction, performance.now())
      if (waitMs > 0) {
        lane.timer = setTimeout(() => this.#pump(direction), Math.ceil(waitMs))
        return
      }
      const next = lane.next()
      this.#state.account(direction, next?.bytes ?? 0)
      next?.go()
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
