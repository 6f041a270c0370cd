// SPDX-License-Identifier: Apache-2.0
// Lets changes of a node wait until its snapshot has what they replace, and decides what becomes of them when that fails or
// takes too long. Used by the backup job and by the copy-before-write driver.
// Rule: a change waits for the target of a snapshot only while somebody may still want the snapshot.

import { ETIMEDOUT } from '../../common/errno.js'
import { IoError } from '../../errors.js'
import type { Guests } from './guests.js'
import type { Snapshot } from './snapshot.js'

/** Which of the two is given up: the change fails, or the snapshot is lost. */
export type OnCbwError = 'break-guest-write' | 'break-snapshot'

export interface CbwPolicy {
  readonly onError: OnCbwError
  /** Longest time a change waits, milliseconds; 0: without end. */
  readonly timeoutMs: number
}

export class BeforeWrite {
  readonly #snapshot: Snapshot
  #policy: CbwPolicy
  readonly #guests: Guests
  readonly #broken: (error: unknown) => void
  /** Lets the changes go on that wait. */
  readonly #waiting = new Set<() => void>()
  #copies = 0
  #idle: (() => void)[] = []
  #over = false

  /**
   * @param guests  know of what is copied: whose change waits for it has met a copy
   * @param broken  told once why the snapshot was lost
   */
  constructor(snapshot: Snapshot, policy: CbwPolicy, guests: Guests, broken: (error: unknown) => void) {
    this.#snapshot = snapshot
    this.#policy = policy
    this.#guests = guests
    this.#broken = broken
  }

  /** Another policy, for changes that come from now on. */
  follow(policy: CbwPolicy): void {
    this.#policy = policy
  }

  /** Resolves when a change of the range may go on. Rejects when it is to fail. */
  async before(offset: number, length: number): Promise<void> {
    if (this.#over || this.#snapshot.isOver(offset, length)) return
    const policy = this.#policy
    try {
      await this.#copied(offset, length, policy)
    } catch (error) {
      if (this.#over) return
      if (policy.onError === 'break-guest-write') throw error
      if (!this.#snapshot.broken) {
        this.#snapshot.break()
        this.letGo()
        this.#broken(error)
      }
    }
  }

  /** Whoever waits goes on: the snapshot is lost, or nobody wants it any more. */
  letGo(): void {
    for (const go of this.#waiting) go()
  }

  /** Nobody wants the snapshot any more. Resolves when nothing is being copied. */
  async end(): Promise<void> {
    this.cancel()
    while (this.#copies > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Nobody wants the snapshot any more: changes go on, also while what they waited for is still under way. */
  cancel(): void {
    this.#over = true
    this.letGo()
  }

  #copied(offset: number, length: number, { timeoutMs }: CbwPolicy): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = () => reject(new IoError(ETIMEDOUT, 'write', this.#snapshot.source.name, offset, length))
      const timer = timeoutMs > 0 ? setTimeout(late, timeoutMs) : undefined
      const left = () => {
        clearTimeout(timer)
        this.#waiting.delete(resolve)
        this.#copies--
        this.#guests.copied()
        if (this.#copies === 0) for (const idle of this.#idle.splice(0)) idle()
      }
      this.#waiting.add(resolve)
      this.#copies++
      this.#guests.copying()
      this.#snapshot.copyBefore(offset, length).then(resolve, reject).finally(left)
    })
  }
}
