// SPDX-License-Identifier: Apache-2.0
// How long clients are waited for, in one place. All of it is counted from the last that they did, to the millisecond.

export interface StreamLimits {
  /** A client may make no progress so long, milliseconds. */
  readonly idleMs: number
  /** A head may take so long from its first byte to its last, empty lines before it counted, milliseconds. */
  readonly headMs: number
}

/** Of a client that has named no ticket yet; a ticket has its own time to make no progress. */
export const IDLE_MS = 60_000
export const HEAD_MS = 30_000
/** After a reply that ends the connection before all of the request was read: so long, and so much of it, is still taken. */
export const LINGER_MS = 2000
export const MOST_LINGERING = 32 * 1024 * 1024
/** When its ticket has ended a client may take so long to take its reply, or to end the request that was answered. */
export const LEAVE_MS = 10_000
