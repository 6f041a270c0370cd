// SPDX-License-Identifier: Apache-2.0
// Bringing nodes to rest for a change of the graph that no job can be cancelled for: who made a request that never ends must
// not hold up everybody else of the node, and whoever wants to stop a job there, for longer than this.

import { Cancelled, CommandError } from '../../errors.js'

/** Longest time that requests are held back until those under way have ended, milliseconds. */
const REST_MS = 10_000

/**
 * @param node  as the error names it
 * @param work  drains it, and gives up with the signal
 * @throws CommandError when that takes too long
 */
export async function restingSoon<T>(
  node: string,
  work: (signal: AbortSignal) => Promise<T>,
  mostMs = REST_MS,
): Promise<T> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(), mostMs)
  try {
    return await work(late.signal)
  } catch (error) {
    if (!(error instanceof Cancelled)) throw error
    throw new CommandError(
      `node '${node}' did not come to rest within ${mostMs / 1000} s; nothing was changed`,
      'GenericError',
      { cause: error },
    )
  } finally {
    clearTimeout(timer)
  }
}
