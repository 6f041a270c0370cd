// SPDX-License-Identifier: Apache-2.0
// Giving back what was taken: all of it, the last first, whatever goes wrong on the way. For ends of jobs and of transactions.

export type GiveBack = () => void | Promise<void>

/** What went wrong. */
export interface Failure {
  readonly error: unknown
}

/**
 * @param taken   is empty then
 * @param before  what went wrong already
 * @throws the first of what went wrong, when all was given back
 */
export async function giveBack(taken: GiveBack[], before?: Failure): Promise<void> {
  let first = before
  for (let give = taken.pop(); give !== undefined; give = taken.pop()) {
    try {
      await give()
    } catch (error) {
      first ??= { error }
    }
  }
  if (first !== undefined) throw first.error
}
