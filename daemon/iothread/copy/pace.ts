// SPDX-License-Identifier: Apache-2.0
// When a copy may go on: what it is told and asks meanwhile (CopyControl), and the places where it waits for that. Used by
// the copy engine.

import type { ErrorAction } from '../../common/job-messages.js'
import { Cancelled, IoError } from '../../errors.js'
import type { Buffers } from './buffers.js'
import type { Courtesy } from './courtesy.js'
import type { RateLimit } from './rate-limit.js'
import type { TaskPool } from './task-pool.js'

/** Pauses between rounds of a job that ignores errors, milliseconds: from 1, doubling. */
const LONGEST_BACKOFF_MS = 1000
/** Longest time without a look whether the guests have gone, milliseconds. */
const LOOK_MS = 10

/** What the engine is told and asks while it copies; a job's control is one. */
export interface CopyControl {
  /** Aborted by a forced cancel; requests in flight still end. */
  readonly signal: AbortSignal
  /** A pause was asked for: let the requests in flight run dry, then call pausePoint(). */
  readonly pausing: boolean
  /** Why there is no use in going on; thrown with nothing in flight. */
  readonly failure?: unknown
  /** With nothing in flight: tells that the job is paused and waits for its end. Throws Cancelled. */
  pausePoint(): Promise<void>
  /** Sleeps until it is woken or the time is over; what woke it must be looked up. Throws Cancelled. */
  wait(timeoutMs?: number): Promise<void>
  wake(): void
  /**
   * What the policy makes of an I/O error; tells the main thread.
   * 'report': it is to be thrown. 'ignore': try again. 'stop': a pause was asked for, then try again.
   * @param fatal  no policy can help (a failed flush): always 'report'
   */
  ioError(operation: 'read' | 'write', error: unknown, fatal?: boolean): ErrorAction
}

/**
 * Other jobs may have all slots, for as long as their storage is stuck: verbs are obeyed meanwhile.
 * @param checkpoint  obeys them; called each time something woke the job
 * @param length  of the buffer, bytes; absent: one slot
 * @returns to be given back with buffers.give()
 * @throws Cancelled, and what the checkpoint throws
 */
export async function takeSlot(
  buffers: Buffers,
  control: CopyControl,
  checkpoint: () => Promise<void>,
  length?: number,
): Promise<number> {
  for (;;) {
    const slot = buffers.take(length)
    if (slot !== undefined) return slot
    buffers.whenGiven(() => control.wake())
    await control.wait()
    if (control.signal.aborted) throw new Cancelled()
    await checkpoint()
  }
}

export class Pace {
  readonly #control: CopyControl
  readonly #limit: RateLimit
  readonly #buffers: Buffers
  readonly #courtesy: Courtesy
  readonly #wake: () => void
  /** Length of the next breath after an ignored error, ms; 0 while all goes well. */
  #backoff = 0
  #breathe = false

  constructor(control: CopyControl, limit: RateLimit, buffers: Buffers, courtesy: Courtesy) {
    this.#control = control
    this.#limit = limit
    this.#buffers = buffers
    this.#courtesy = courtesy
    this.#wake = () => control.wake()
  }

  /** Stops for a pause (with nothing in flight), a cancel, and the breath between rounds of ignored errors. */
  async checkpoint(pool: TaskPool): Promise<void> {
    const control = this.#control
    for (;;) {
      if (control.signal.aborted) throw new Cancelled()
      if (control.failure !== undefined) throw control.failure
      if (control.pausing) {
        await pool.idle()
        await control.pausePoint()
      } else if (this.#breathe && pool.running === 0) {
        this.#breathe = false
        await control.wait(this.#backoff)
      } else return
    }
  }

  /** Waits until the next piece may start: room in the pool and beside guests, no pause, no debt to the speed limit. */
  async turn(pool: TaskPool): Promise<void> {
    const control = this.#control
    for (;;) {
      await this.checkpoint(pool)
      await pool.room()
      const debt = this.#limit.wait()
      if (debt > 0) await control.wait(debt)
      else if (!this.#courtesy.mayBegin()) {
        this.#courtesy.whenRoom(this.#wake)
        await control.wait(LOOK_MS)
      } else if (!control.pausing) return
    }
  }

  /** @param length  of the buffer, bytes */
  async slot(pool: TaskPool, length: number): Promise<number> {
    return takeSlot(this.#buffers, this.#control, () => this.checkpoint(pool), length)
  }

  wentWell(): void {
    if (!this.#breathe) this.#backoff = 0
  }

  /** Throws what is no matter of storage. */
  judge(operation: 'read' | 'write', error: unknown): ErrorAction {
    if (!(error instanceof IoError)) throw error
    const action = this.#control.ioError(operation, error)
    if (action === 'ignore' && !this.#breathe) {
      this.#breathe = true
      this.#backoff = Math.min(LONGEST_BACKOFF_MS, Math.max(1, this.#backoff * 2))
    }
    return action
  }
}
