// SPDX-License-Identifier: Apache-2.0
// Host ranges that nothing refers to any more. They become free only when that is durable, and when every request that
// began before has ended: it may still be reading or writing there.
//
//   add() ─ commit makes it durable ─ sealed with its epoch ─ requests of the epoch end ─ release

import type { Epoch } from '../../mapping.js'

/** Why a place is given up: decides whether the storage below is told. */
export type FreeReason = 'request' | 'snapshot' | 'other' | 'always'

export interface Freed {
  /** Host offset and length, bytes; need not be whole clusters (compressed data). */
  readonly offset: number
  readonly length: number
  readonly reason: FreeReason
}

interface Span extends Epoch {
  requests: number
  sealed: boolean
  freed: Freed[]
}

export class Frees {
  readonly #release: (freed: readonly Freed[]) => Promise<void>
  #added: Freed[] = []
  /** Oldest first; the last one is that of requests that begin now. */
  #spans: Span[] = [newSpan()]
  #releasing: Promise<void> = Promise.resolve()

  /** @param release  never rejects */
  constructor(release: (freed: readonly Freed[]) => Promise<void>) {
    this.#release = release
  }

  enter(): Epoch {
    const span = this.#spans.at(-1) as Span
    span.requests += 1
    return span
  }

  leave(epoch: Epoch): void {
    epoch.requests -= 1
    if (epoch.requests === 0 && this.#spans.length > 1) this.#collect()
  }

  add(freed: Freed): void {
    this.#added.push(freed)
  }

  /** Bytes that are not free yet. */
  get pending(): boolean {
    return this.#added.length > 0
  }

  /** What was added until now, for a commit that makes it durable. */
  take(): Freed[] {
    return this.#added.splice(0)
  }

  /** The commit failed. */
  putBack(freed: readonly Freed[]): void {
    this.#added.unshift(...freed)
  }

  /** What take() gave is durable now. */
  durable(freed: Freed[]): void {
    if (freed.length === 0) return
    const span = this.#spans.at(-1) as Span
    span.freed = freed
    span.sealed = true
    this.#spans.push(newSpan())
    this.#collect()
  }

  /** The image was read anew: what nobody refers to is a leak in it, or somebody's. */
  forget(): void {
    this.#added = []
    for (const span of this.#spans) span.freed = []
  }

  /** Resolves when everything that could be released was. */
  settled(): Promise<void> {
    return this.#releasing
  }

  #collect(): void {
    for (let span = this.#spans[0]; span?.sealed === true && span.requests === 0; span = this.#spans[0]) {
      this.#spans.shift()
      const { freed } = span
      this.#releasing = this.#releasing.then(() => this.#release(freed))
    }
  }
}

function newSpan(): Span {
  return { requests: 0, sealed: false, freed: [] }
}
