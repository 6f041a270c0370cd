// SPDX-License-Identifier: Apache-2.0
// What a job on a backing chain holds: claims on its nodes, and write access to images that are only read otherwise. Taken
// in prepare(), given back last first.

import { type Failure, type GiveBack, giveBack } from '../../common/give-back.js'
import { CommandError } from '../../errors.js'
import type { Claim } from '../block/claims.js'
import type { Permissions } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { TopFilter } from '../block/top-filters.js'
import type { WriteAccess } from '../block/write-access.js'
import type { FilterSpec } from '../messages-chain.js'

/** Between top and base: what such a node shows changes with the base, and is right for the node above it only. */
const BETWEEN: Permissions = { use: [], share: ['write unchanged'] }
/** Nobody else may see or have the base: it is neither what it was nor what it will be. */
const BASE: Permissions = { use: ['consistent read', 'write', 'resize'], share: ['write unchanged'] }
/** An image that names another backing file, or gets what shows through it: what it shows stays the same. */
const UNCHANGED: Permissions = {
  use: ['consistent read', 'write unchanged'],
  share: ['consistent read', 'write', 'write unchanged'],
}

export class Holdings {
  readonly #graph: Graph
  readonly #user: string
  readonly #held: GiveBack[] = []
  readonly claims: Claim[] = []

  /** @param user  as conflicts name it */
  constructor(graph: Graph, user: string) {
    this.#graph = graph
    this.#user = user
  }

  /** @param signal  gives up; Cancelled is thrown */
  async makeWritable(node: BlockNode, signal: AbortSignal): Promise<WriteAccess> {
    const access = await this.#graph.makeWritable(node, signal)
    this.#held.push(() => access.restore())
    return access
  }

  async claim(node: BlockNode, permissions: Permissions, beside?: BlockNode): Promise<void> {
    const claim = await this.#graph.claim(this.#user, node, permissions, undefined, beside)
    this.claims.push(claim)
    this.#held.push(() => claim.release())
  }

  /** The job's filter node. It may be removed before the rest is given back. */
  insertFilter({ name, below }: FilterSpec, driver: 'commit_top' | 'copy-on-read'): TopFilter {
    const filter = this.#graph.insertFilter(name, this.#graph.node(below), () => [], { driver })
    this.#held.push(() => filter.remove())
    return filter
  }

  /** For an image whose content stays as it is. */
  claimUnchanged(node: BlockNode): Promise<void> {
    return this.claim(node, UNCHANGED)
  }

  /**
   * For nodes of which the first is copied into the last.
   * @param above  the node above the first in its chain, where there is one
   */
  async claimChain(way: readonly BlockNode[], first: Permissions, above?: BlockNode): Promise<void> {
    for (const [index, node] of way.entries()) {
      const permissions = index === 0 ? first : index === way.length - 1 ? BASE : BETWEEN
      await this.claim(node, permissions, index === 0 ? above : way[index - 1])
    }
  }

  /** @throws the first of what went wrong, when all was given back. @param before  what went wrong already */
  letGo(before?: Failure): Promise<void> {
    return giveBack(this.#held, before)
  }
}

/**
 * Nodes from one on down to another of its backing chain, and how many layers above that one they are.
 * @param to  undefined: to the end
 * @throws CommandError when the other is not there
 */
export function layersTo(
  graph: Graph,
  from: BlockNode,
  to: BlockNode | undefined,
): { readonly way: BlockNode[]; readonly layers: number } {
  const way = graph.chain(from, to)
  if (way === undefined) throw new CommandError(`'${to?.name}' is not in this backing file chain`)
  const above = to === undefined ? way : way.slice(0, -1)
  return { way, layers: above.filter(({ driver }) => driver.format !== undefined).length }
}
