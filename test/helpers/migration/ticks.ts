// SPDX-License-Identifier: Apache-2.0
// What the tiny guest says: `TICK n bad=k`, n counting on for ever, k wrong words in its memory.

export interface Tick {
  readonly n: number
  readonly bad: number
}

/**
 * The whole lines of what a guest said. A guest that was saved in the middle of a line says the rest where it goes on: the
 * texts of before and after, put together, have all its ticks.
 */
export function readTicks(text: string): Tick[] {
  return [...text.matchAll(/TICK (\d+) bad=(\d+)\n/g)].map(([, n, bad]) => ({
    n: Number(n),
    bad: Number(bad),
  }))
}

/** @returns what is wrong with a guest's ticks: one that does not follow its neighbour, or a wrong word in memory. */
export function wrongTick(text: string): string | undefined {
  const ticks = readTicks(text)
  const wrong = ticks.findIndex(
    (tick, at) => tick.bad !== 0 || tick.n !== (ticks[at - 1]?.n ?? tick.n - 1) + 1,
  )
  if (wrong < 0) return ticks.length > 0 ? undefined : 'no tick'
  return `tick ${ticks[wrong]?.n} bad=${ticks[wrong]?.bad} after tick ${ticks[wrong - 1]?.n}`
}
