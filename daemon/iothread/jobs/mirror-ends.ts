// SPDX-License-Identifier: Apache-2.0
// What a mirror holds at its two ends, or the commit of an active image at the ends of a chain and between them. Used by
// mirror.ts and by whoever makes a target for a mirror.

import type { Permission, Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { WriteAccess } from '../block/write-access.js'
import type { MirrorSpec } from '../messages-mirror.js'
import { COMMIT_USER } from './commit.js'
import { Holdings, layersTo } from './holdings.js'

/** What the source's other users may do: as QEMU has it, write too. */
const SHARED: readonly Permission[] = ['consistent read', 'write', 'write unchanged']
/** Writes of other programs are not seen here, so a one-shot copy, which is to be equal in the end, excludes them. */
const SHARED_ONE_SHOT: readonly Permission[] = ['consistent read', 'write unchanged']

/** Who holds the claims of a mirror, as errors name it. */
export const MIRROR_USER = 'block job: mirror'

/** What a mirror needs of its source. @param oneShot  it ends by itself when it is ready */
export function sourcePermissions(oneShot: boolean): Permissions {
  return { use: ['consistent read'], share: oneShot ? SHARED_ONE_SHOT : SHARED }
}

const TARGET_PERMISSIONS: Permissions = { use: ['write'], share: ['write unchanged'] }

export function mirrorHoldings(graph: Graph, { commit }: MirrorSpec): Holdings {
  return new Holdings(graph, commit === true ? COMMIT_USER : MIRROR_USER)
}

/** @returns write access to the base of a commit, which may be kept */
export async function claimEnds(
  holdings: Holdings,
  graph: Graph,
  { source: sourceName, target: targetName, commit, autoComplete }: MirrorSpec,
  signal: AbortSignal,
): Promise<WriteAccess | undefined> {
  const [source, target] = [graph.node(sourceName), graph.node(targetName)]
  const permissions = sourcePermissions(autoComplete)
  if (commit !== true) {
    await holdings.claim(source, permissions)
    await holdings.claim(target, TARGET_PERMISSIONS)
    return undefined
  }
  const access = await holdings.makeWritable(target, signal)
  await holdings.claimChain(layersTo(graph, source, target).way, permissions)
  return access
}
