// SPDX-License-Identifier: Apache-2.0
// Shares of a bandwidth: who uses little keeps a little more than that, and the others get equal parts of the rest. Pure;
// used by Budgets.

/** A share that is used up to that is wanted larger. */
const HUNGRY = 0.9
/** What those get above what they use who do not use their share, and at least, of an equal part. */
const ROOM = 1.25
const LEAST = 0.125

/** Bytes per second. */
export interface Use {
  /** What it had; 0 = none yet. */
  readonly share: number
  /** What it used of it. */
  readonly used: number
}

/**
 * @param bandwidth  bytes per second, above 0
 * @returns shares in the order of the uses; together not more than the bandwidth, but each at least 1
 */
export function shares(bandwidth: number, uses: readonly Use[]): number[] {
  const equal = bandwidth / uses.length
  const wanted = uses.map(({ share, used }) =>
    share === 0 || used >= share * HUNGRY ? bandwidth : Math.max(used * ROOM, equal * LEAST),
  )
  // From the least wanted up: what one leaves of an equal part goes to those that want more.
  const given: number[] = new Array(uses.length).fill(0)
  let rest = bandwidth
  const order = [...wanted.keys()].sort((a, b) => (wanted[a] ?? 0) - (wanted[b] ?? 0))
  for (const [place, index] of order.entries()) {
    const share = Math.min(wanted[index] ?? 0, rest / (order.length - place))
    given[index] = share
    rest -= share
  }
  // What nobody wants now is there for whoever wants it next.
  return given.map((share) => Math.max(1, Math.floor(share + rest / uses.length)))
}
