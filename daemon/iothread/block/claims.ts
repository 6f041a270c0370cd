// SPDX-License-Identifier: Apache-2.0
// Claims: who uses which node how, and what it leaves to others (QEMU's permissions). Jobs and exports claim before
// they use a node. A claim reaches down to the leaf, whose driver tells other programs by image locks; a node without
// a claim holds none. Used by the graph.
//
// Claims on one leaf are settled one after the other, so a lock never tells of a claim that was refused.

import { CommandError } from '../../errors.js'
import { PERMISSIONS, type Permission, type Permissions } from './driver.js'
import type { BlockNode } from './node.js'
import type { Records } from './records.js'

export interface Claim {
  /** The node to use: the filter above the claimed node while there is one. */
  readonly node: BlockNode
  /** Gives the permissions back; a second call does nothing. */
  release(): Promise<void>
}

/** What a user has on a node: a claim (role 'root') or a parent node's own users together. */
interface Use {
  readonly user: string
  readonly role: string
  readonly permissions: Permissions
}

export class Claims {
  readonly #records: Records
  /** Newest first. */
  readonly #direct = new Map<BlockNode, Use[]>()
  /** End of the queue of changes per leaf. */
  readonly #queues = new WeakMap<BlockNode, Promise<void>>()

  constructor(records: Records) {
    this.#records = records
  }

  /**
   * @param user  as it is named in conflicts: "an unnamed block device", "block job 'job0'"
   * @returns gives the claim back
   * @throws CommandError when the node is being removed, another claim or another program excludes it, or the node cannot be written
   */
  async claim(user: string, node: BlockNode, permissions: Permissions): Promise<() => Promise<void>> {
    const leaf = this.#records.leaf(node)
    using _turn = await this.turn(leaf)
    this.#records.get(node.name)
    const use: Use = { user, role: 'root', permissions }
    this.#direct.set(node, [use, ...(this.#direct.get(node) ?? [])])
    try {
      for (const record of this.#records.chain(node)) this.#check(record.node)
      await leaf.driver.lock?.(this.cumulative(leaf))
    } catch (error) {
      this.#forget(node, use)
      throw error
    }
    return () => this.#release(node, use)
  }

  isClaimed(node: BlockNode): boolean {
    return (this.#direct.get(node)?.length ?? 0) > 0
  }

  /** What all users of a node want together; undefined without users. */
  cumulative(node: BlockNode): Permissions | undefined {
    const uses = this.#uses(node)
    if (uses.length === 0) return undefined
    return {
      use: PERMISSIONS.filter((permission) => uses.some((use) => use.permissions.use.includes(permission))),
      share: PERMISSIONS.filter((permission) =>
        uses.every((use) => use.permissions.share.includes(permission)),
      ),
    }
  }

  /** The caller's turn to change the locks of a leaf; ends with dispose. */
  async turn(leaf: BlockNode): Promise<Disposable> {
    const before = this.#queues.get(leaf)
    let end: () => void = () => {}
    this.#queues.set(leaf, new Promise((resolve) => (end = resolve)))
    await before
    return { [Symbol.dispose]: () => end() }
  }

  async #release(node: BlockNode, use: Use): Promise<void> {
    if (!this.#direct.get(node)?.includes(use)) return
    const leaf = this.#records.leaf(node)
    using _turn = await this.turn(leaf)
    this.#forget(node, use)
    await leaf.driver.lock?.(this.cumulative(leaf))
  }

  #forget(node: BlockNode, use: Use): void {
    const left = (this.#direct.get(node) ?? []).filter((other) => other !== use)
    if (left.length > 0) this.#direct.set(node, left)
    else this.#direct.delete(node)
  }

  #uses(node: BlockNode): Use[] {
    const uses = [...(this.#direct.get(node) ?? [])]
    for (const parent of this.#records.parents(node)) {
      const permissions = this.cumulative(parent.node)
      const role = parent.child?.role ?? ''
      if (permissions !== undefined) uses.push({ user: `node '${parent.node.name}'`, role, permissions })
    }
    return uses
  }

  #check(node: BlockNode): void {
    const uses = this.#uses(node)
    const changes = uses.some(({ permissions }) => permissions.use.some((one) => one !== 'consistent read'))
    if (changes && node.readOnly) throw new CommandError('Block node is read-only')
    for (const holder of uses) {
      for (const other of uses) {
        if (holder === other) continue
        const refused = other.permissions.use.filter((one) => !holder.permissions.share.includes(one))
        if (refused.length > 0) throw conflict(node, refused, other, holder)
      }
    }
  }
}

function conflict(node: BlockNode, refused: readonly Permission[], wants: Use, holder: Use): CommandError {
  const role = (use: Use) => `${use.user} (uses node '${node.name}' as '${use.role}' child)`
  return new CommandError(
    `Permission conflict on node '${node.name}': permissions '${refused.join(', ')}' are both ` +
      `required by ${role(wants)} and unshared by ${role(holder)}.`,
  )
}
