// SPDX-License-Identifier: Apache-2.0
// Drivers of nodes that show what is below them, and are no format of their own.

const filters: ReadonlySet<string> = new Set([
  'throttle',
  'x-inject',
  'blkdebug',
  'mirror_top',
  'commit_top',
  'copy-on-read',
  'copy-before-write',
  'compress',
])

export function isFilter(driver: string): boolean {
  return filters.has(driver)
}
