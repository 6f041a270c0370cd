// SPDX-License-Identifier: Apache-2.0
// Nodes whose drivers use what lies below them by themselves, from when they are opened until they are removed. Part of the graph.
// Rule: such a driver does so only while its node has a claim, as jobs and exports do; nobody finds the node in use because of it.

import { giveBack } from '../../common/give-back.js'
import type { Claims, Release } from './claims.js'
import { PERMISSIONS } from './driver.js'
import type { BlockNode } from './node.js'
import type { NodeRecord } from './records.js'

export class Standing {
  readonly #claims: Claims
  readonly #releases = new Map<BlockNode, Release>()

  constructor(claims: Claims) {
    this.#claims = claims
  }

  /** @throws CommandError when somebody excludes what the driver does; call end() then too */
  async begin({ node }: NodeRecord): Promise<void> {
    const { driver } = node
    if (driver.begin === undefined) return
    const permissions = { use: [], share: PERMISSIONS }
    const release = await this.#claims.claim(`node '${node.name}'`, node, permissions, { standing: true })
    this.#releases.set(node, release)
    await driver.begin()
  }

  /** Does nothing for other nodes. */
  async end({ node }: NodeRecord): Promise<void> {
    const release = this.#releases.get(node)
    if (release === undefined) return
    this.#releases.delete(node)
    await giveBack([release, () => node.driver.end?.()])
  }
}
