// SPDX-License-Identifier: Apache-2.0
// Drivers of nodes that show what is below them as it is, and are no format of their own. For graphs and for the commands that
// look through such nodes.

/** Put above a node by a job, or for one. */
const ofJobs = ['mirror_top', 'commit_top', 'copy-on-read', 'copy-before-write']

const filters: ReadonlySet<string> = new Set(['throttle', 'compress', 'blkdebug', 'x-inject', ...ofJobs])

/** The snapshot of a node is called as the node, but shows something else. */
const transparent: ReadonlySet<string> = new Set(['snapshot-access', ...ofJobs])

export function isFilter(driver: string): boolean {
  return filters.has(driver)
}

/** Whether a node is called as what is below it. */
export function isTransparent(driver: string): boolean {
  return transparent.has(driver)
}
