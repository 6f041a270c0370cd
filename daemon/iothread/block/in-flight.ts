// SPDX-License-Identifier: Apache-2.0
// Requests of one node that are under way, and drained sections, in which none is. Used by BlockNode only.
//
//     request ── gate ──▶ enter() ── driver ──▶ leave()          drain(): closes the gate, waits until all have left
//
// Changed only between awaits; whoever waited at the gate looks again before it enters.

import { Cancelled } from '../../errors.js'

export class InFlight {
  /** There as long as the node is drained: new requests wait for it. */
  gate: Promise<void> | undefined
  #count = 0
  /** Drained sections that are open. */
  #drains = 0
  #openGate: (() => void) | undefined
  /** Called when the last request in flight ends. */
  #quiet: (() => void)[] = []

  enter(): void {
    this.#count += 1
  }

  /** Enters, and leaves with the returned object's dispose. */
  request(): Disposable {
    this.enter()
    return { [Symbol.dispose]: () => this.leave() }
  }

  leave(): void {
    this.#count -= 1
    if (this.#count > 0 || this.#quiet.length === 0) return
    const waiting = this.#quiet
    this.#quiet = []
    for (const resolve of waiting) resolve()
  }

  /**
   * Resolves when nothing is in flight. Ends with the returned object's dispose; nests.
   * @param signal  gives up waiting: requests go on, and Cancelled is thrown
   */
  async drain(signal?: AbortSignal): Promise<Disposable> {
    const section = this.#section()
    if (this.#count > 0 && !signal?.aborted)
      await new Promise<void>((resolve) => {
        this.#quiet.push(resolve)
        signal?.addEventListener('abort', () => resolve(), { once: true })
      })
    if (signal?.aborted) {
      section[Symbol.dispose]()
      throw new Cancelled()
    }
    return section
  }

  /** From now on new requests wait. */
  #section(): Disposable {
    this.#drains += 1
    this.gate ??= new Promise((resolve) => {
      this.#openGate = resolve
    })
    let open = true
    return {
      [Symbol.dispose]: () => {
        if (!open) return
        open = false
        this.#drains -= 1
        if (this.#drains > 0) return
        this.#openGate?.()
        this.gate = undefined
      },
    }
  }
}
