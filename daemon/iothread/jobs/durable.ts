// SPDX-License-Identifier: Apache-2.0
// Whether what a job has copied so far may be forgotten in a bitmap, when the job has failed. Used by mirrors and backups.

import { atMost } from '../../common/deadline.js'
import type { CopyEngine } from '../copy/engine.js'

/** A target that takes longer may never answer, and the job is to end, milliseconds. */
const LONGEST_FLUSH_MS = 2000

/** Flushes. @returns false also when it is not known in time; never rejects */
export async function isDurable(engine: Pick<CopyEngine, 'flush'>): Promise<boolean> {
  let durable = false
  const flushed = engine.flush().then(
    () => {
      durable = true
    },
    () => undefined,
  )
  await atMost(flushed, LONGEST_FLUSH_MS)
  return durable
}
