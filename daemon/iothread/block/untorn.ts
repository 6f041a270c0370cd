// SPDX-License-Identifier: Apache-2.0
// Untorn: reading what an image says of itself although other programs may change it. A node that nobody uses has no locks, so
// one part may be read before a change and the next one after it. What fits together by chance is learned anew with the first
// claim; what does not is looked at once more here, with nobody changing it. Used when nodes are opened and looked at.

import { type GiveBack, giveBack } from '../../common/give-back.js'
import type { Claims } from './claims.js'
import type { Permissions } from './driver.js'
import type { BlockNode } from './node.js'
import type { Records } from './records.js'

const USER = 'an unnamed block device'
const QUIET: Permissions = { use: ['consistent read'], share: ['consistent read', 'write unchanged'] }

export interface Untorn {
  readonly claims: Claims
  readonly records: Records
}

/**
 * @param nodes  that are read
 * @param work   done again when it fails and others may have been the cause
 * @throws CommandError saying that the image is in use, when it fails and it is
 */
export async function untorn<T>(
  { claims, records }: Untorn,
  nodes: readonly BlockNode[],
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const used = nodes.some((node) => claims.cumulative(node) !== undefined)
    const locks = nodes.some((node) => records.leaves(node).some(({ driver }) => driver.lock !== undefined))
    if (used || !locks) throw error
  }
  const releases: GiveBack[] = []
  try {
    for (const node of nodes) releases.push(await claims.claim(USER, node, QUIET))
    return await work()
  } finally {
    await giveBack(releases)
  }
}
