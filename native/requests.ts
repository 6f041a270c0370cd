// SPDX-License-Identifier: Apache-2.0
// Requests to the addon on their way: a promise by request id for each. Used by engine.ts and streams.ts.

import type { OnFinished } from './binding.js'

const ECANCELED = 125

type Settle = (result: number, value?: unknown) => void

export class Requests {
  readonly #pending = new Map<number, Settle>()
  #nextId = 1
  #closing = false
  #idle: (() => void) | undefined

  /**
   * @param submit  hands the request to the addon; below 0 it is refused and nothing will be reported
   * @returns its result; -ECANCELED once the engine ends
   */
  send(submit: (id: number) => number): Promise<number> {
    return this.sendFor(submit, (result) => result, -ECANCELED)
  }

  /**
   * For the verbs whose result is more than a number.
   * @param canceled  what those get that come too late
   */
  sendFor<Value>(
    submit: (id: number) => number,
    finish: (result: number, value: unknown) => Value,
    canceled: Value,
  ): Promise<Value> {
    if (this.#closing) return Promise.resolve(canceled)
    return this.#begin(submit, finish)
  }

  /** The addon reports. */
  readonly onFinished: OnFinished = (pairs, count, extras) => {
    let extra = 0
    for (let index = 0; index < count * 2; index += 2) {
      const id = pairs[index] ?? 0
      const value = extra < extras.length && extras[extra] === id ? extras[extra + 1] : undefined
      if (value !== undefined) extra += 2
      this.#settle(id, pairs[index + 1] ?? 0, value)
    }
  }

  /**
   * No more requests; waits for those under way, not longer than `deadlineMs`.
   * @param last  the requests that come after all others
   */
  async end(deadlineMs: number, last: readonly ((id: number) => number)[]): Promise<void> {
    this.#closing = true
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs)
    })
    for (const submit of last) void this.#begin(submit, () => undefined)
    if (this.#pending.size > 0) {
      const idle = new Promise<void>((resolve) => {
        this.#idle = resolve
      })
      await Promise.race([idle, late])
    }
    clearTimeout(timer)
  }

  /** Those still under way will not be reported any more. @returns how many */
  abandon(): number {
    const left = [...this.#pending.values()]
    this.#pending.clear()
    for (const settle of left) settle(-ECANCELED)
    return left.length
  }

  #begin<Value>(
    submit: (id: number) => number,
    finish: (result: number, value: unknown) => Value,
  ): Promise<Value> {
    return new Promise((resolve) => {
      const id = this.#nextId++
      this.#pending.set(id, (result, value) => resolve(finish(result, value)))
      const refused = submit(id)
      if (refused < 0) this.#settle(id, refused)
    })
  }

  #settle(id: number, result: number, value?: unknown): void {
    const settle = this.#pending.get(id)
    this.#pending.delete(id)
    settle?.(result, value)
    if (this.#pending.size === 0) this.#idle?.()
  }
}
