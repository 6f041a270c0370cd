// SPDX-License-Identifier: Apache-2.0
// Watches whether a mirror gets done while its source is in use, and does what was asked for when it does not. Used by
// the mirror, which tells it of changes and lets its filter's changes through it. Beside guests that change little a
// mirror is watched with patience, as a copy that is made once.
// Invariant: users are slowed down only between a verdict 'diverging' and the next moment when nothing is dirty, or the
// job pauses, ends, or waits for its users to stop.

import type { Convergence, OnDiverge } from '../../common/convergence.js'
import type { ChangeGuard } from '../block/drivers/mirror-top.js'
import { ConvergenceMeter, isBehind } from './convergence.js'
import type { Courtesy } from './courtesy.js'
import { DirtiedChunks } from './dirtied-chunks.js'
import { Patience } from './patience.js'
import { brakeLimit, WriteBrake } from './write-brake.js'

/** What a mirror has done, at some moment. */
export interface Course {
  /** Bytes altogether. */
  readonly done: number
  /** Bytes left. */
  readonly remaining: number
  /** It copies everything for the first time. */
  readonly first: boolean
  /** Of its speed, bytes per second, 0 = none. */
  readonly limit: number
}

export class ConvergenceWatch {
  readonly #onDiverge: OnDiverge
  readonly #block: () => void
  readonly #courtesy: Courtesy
  readonly #patience: Patience
  readonly #meter = new ConvergenceMeter()
  readonly #chunks: DirtiedChunks
  readonly #brake = new WriteBrake()
  #dirtied = 0
  /** At the last look it was made dirty too fast. */
  #behind = false

  /**
   * @param granularity  of the dirty bitmap, bytes
   * @param courtesy     gives way to what must be done
   * @param block        has changes wait for the target
   */
  constructor(granularity: number, onDiverge: OnDiverge, courtesy: Courtesy, block: () => void) {
    this.#chunks = new DirtiedChunks(granularity)
    this.#onDiverge = onDiverge
    this.#courtesy = courtesy
    this.#patience = new Patience(courtesy)
    this.#block = block
  }

  get state(): Convergence {
    const { limit } = this.#brake
    return { ...this.#meter.state, ...(limit > 0 && { writeLimit: limit }) }
  }

  /** Something of the source is to be copied again. */
  dirtied(offset: number, length: number): void {
    this.#chunks.mark(offset, length)
  }

  /** The same guard behind the brake. */
  guard(inner: ChangeGuard): ChangeGuard {
    return {
      change: (offset, length, submit) => {
        const admitted = this.#brake.admit(length)
        if (admitted === undefined) return inner.change(offset, length, submit)
        return admitted.then(() => inner.change(offset, length, submit))
      },
    }
  }

  /** To be called often. @param at  monotonic, milliseconds */
  look(at: number, { done, remaining, first, limit: speed }: Course): void {
    // What is pressed for because of changes is not to be eased because of their absence a moment before.
    if (first && !this.#behind) this.#patience.look(at, remaining, speed)
    else this.#patience.pause()
    if (!this.#meter.due(at)) return
    this.#dirtied += this.#chunks.take()
    const { written, waiting, limit } = this.#brake
    this.#meter.look(at, { done, dirtied: this.#dirtied, written, remaining })
    const { verdict, dirtyRate, copyRate } = this.#meter.state
    this.#behind = verdict !== 'unknown' && isBehind(dirtyRate, copyRate, remaining)
    if (this.#behind) this.#courtesy.press()
    const diverging = verdict === 'diverging'
    if (this.#onDiverge === 'write-blocking' && diverging) this.#block()
    if (this.#onDiverge !== 'throttle' || !(diverging || limit > 0)) return
    this.#brake.set(brakeLimit({ writeRate: this.#meter.writeRate, dirtyRate, copyRate, waiting }, limit))
  }

  /** Nothing is dirty, or users are going to be stopped altogether. */
  letGo(): void {
    this.#brake.release()
    this.#courtesy.relax()
    this.#patience.pause()
    this.#behind = false
  }

  /** The job stands still. */
  pause(): void {
    this.letGo()
    this.#chunks.take()
    this.#meter.reset()
  }
}
