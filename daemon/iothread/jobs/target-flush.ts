// SPDX-License-Identifier: Apache-2.0
// Flushes of the target of a copying job, and what is known by them. Used by job bodies.
// Rule: after a failed flush nobody knows what is on the disk, whatever a later one says.

import { atMost } from '../../common/deadline.js'
import type { JobReceipt } from '../../common/job-messages.js'
import { IoError } from '../../errors.js'
import type { BlockNode } from '../block/node.js'
import type { CopyEngine } from '../copy/engine.js'
import type { JobControl } from './body.js'

/** A target that takes longer may never answer, and a job that has failed is to end, milliseconds. */
const LONGEST_FLUSH_MS = 2000

export class TargetFlush {
  readonly #target: BlockNode
  readonly #engine: Pick<CopyEngine, 'flush'>
  readonly #control: Pick<JobControl, 'ioError'>
  /** How it went with what was copied last. */
  #outcome: 'not-reached' | 'ok' | 'failed' = 'not-reached'
  #failed = false

  constructor(target: BlockNode, engine: Pick<CopyEngine, 'flush'>, control: Pick<JobControl, 'ioError'>) {
    this.#target = target
    this.#engine = engine
    this.#control = control
  }

  /** More is being copied. */
  begin(): void {
    this.#outcome = 'not-reached'
  }

  /** What was copied is durable when it resolves. */
  async flush(): Promise<void> {
    try {
      await this.#engine.flush()
      this.#outcome = 'ok'
    } catch (error) {
      this.#outcome = 'failed'
      this.#failed = true
      // Not left to the policy.
      if (error instanceof IoError) this.#control.ioError('write', error, true)
      throw error
    }
  }

  /** Whether a bitmap may forget what a failed job has copied. @returns false also when it is not known in time; never rejects */
  async isDurable(): Promise<boolean> {
    if (this.#failed) return false
    let durable = false
    const flushed = this.#engine.flush().then(
      () => {
        durable = true
      },
      () => undefined,
    )
    await atMost(flushed, LONGEST_FLUSH_MS)
    return durable
  }

  get outcome(): JobReceipt['flush'] {
    return this.#outcome === 'ok' && this.#target.options.noFlush ? 'disabled' : this.#outcome
  }
}
