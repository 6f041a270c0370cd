// SPDX-License-Identifier: Apache-2.0
// Processes of the machine, as /proc lists them.

import { readdirSync, readFileSync } from 'node:fs'

/** Processes whose parent is `pid`: the leaders of its engines' thread groups are among them. */
export function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((candidate) => candidate > 0 && parentOf(candidate) === pid)
}

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  } catch {
    return undefined
  }
}
