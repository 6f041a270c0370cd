// SPDX-License-Identifier: Apache-2.0
// Requests that a driver holds back itself (inject, throttle), so that they are seen as waiting like those in the
// kernel. Written by drivers, read by Graph.oldest().

import type { OldestRequest } from '../../common/job-messages.js'

interface Held {
  readonly op: string
  readonly node: string
  readonly since: number
}

export class HeldRequests {
  /** In the order they began: the first is the oldest. */
  readonly #held = new Set<Held>()

  /** The request waits until the result is disposed. */
  hold(op: string, node: string): Disposable {
    const held: Held = { op, node, since: performance.now() }
    this.#held.add(held)
    return { [Symbol.dispose]: () => this.#held.delete(held) }
  }

  oldest(): OldestRequest | undefined {
    for (const held of this.#held) {
      return { op: held.op, node: held.node, ageMs: performance.now() - held.since }
    }
    return undefined
  }
}
