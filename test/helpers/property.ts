// SPDX-License-Identifier: Apache-2.0
// Runs a fast-check property as one assertion and prints its seed; SEED=n in the environment repeats a run.

import fc from 'fast-check'
import type { Test } from 'tap'

export function holds<T>(t: Test, property: fc.IProperty<T>, numRuns: number): void {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
  t.comment(`seed ${seed}`)
  fc.assert(property, { seed, numRuns })
  t.pass(`held ${numRuns} times`)
}
