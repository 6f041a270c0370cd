// SPDX-License-Identifier: Apache-2.0
// How the jobs of memory workers end when they do not end well: cancelled, or with an error that says where. Used by the jobs.

import { ECONNRESET, EPIPE } from '../common/errno.js'
import { Cancelled, CommandError, IoError } from '../errors.js'

/**
 * Waits for work, or for the end of waiting.
 * What waits for storage or a peer goes on by itself; nobody waits for it any more.
 * @throws Cancelled, and what the work throws
 */
export async function unlessCancelled<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  if (signal.aborted) throw new Cancelled()
  let cancel = (): void => {}
  const cancelled = new Promise<never>((_, reject) => {
    cancel = () => reject(new Cancelled())
  })
  signal.addEventListener('abort', cancel)
  try {
    return await Promise.race([work, cancelled])
  } finally {
    signal.removeEventListener('abort', cancel)
  }
}

/** Storage's errors say what, not where: here users are told both, in QEMU's words where it has some. */
export function named(error: unknown): unknown {
  if (!(error instanceof IoError)) return error
  const { op, node, message, errno } = error
  if (errno === EPIPE || errno === ECONNRESET)
    return new CommandError(`${node}: the other side has closed the connection`, 'GenericError', {
      cause: error,
    })
  const what = op === 'open' ? 'Could not open' : `cannot ${op}`
  return new CommandError(`${what} '${node}': ${message}`, 'GenericError', { cause: error })
}
