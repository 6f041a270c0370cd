// SPDX-License-Identifier: Apache-2.0
// Claims: who uses which node how, and what it leaves to others (QEMU's permissions). Jobs and exports claim before
// they use a node. A claim reaches down to all leaves below, whose drivers tell other programs by image locks; a node
// without a claim holds none. Used by the graph.
//
// Claims on one leaf are settled one after the other, so a lock never tells of a claim that was refused.

import { CommandError } from '../../errors.js'
import { PERMISSIONS, type Permission, type Permissions } from './driver.js'
import type { BlockNode } from './node.js'
import type { NodeRecord, Records } from './records.js'

export interface Claim {
  /** The node to use: the filter above the claimed node while there is one. */
  readonly node: BlockNode
  /** Gives the permissions back; a second call does nothing. */
  readonly release: Release
}

/** Gives a claim back. */
export type Release = () => Promise<void>
/** Told that a claim is on another node now. */
export type Moved = (to: BlockNode) => void

/** What a user has on a node: a claim (role 'root') or a parent node's own users together. */
interface Use {
  readonly user: string
  readonly role: string
  readonly permissions: Permissions
}

/** A claim. */
interface Direct extends Use {
  /** Changed by replace() only. */
  node: BlockNode
  /** Undefined: its user stays where it is. */
  readonly moved: Moved | undefined
}

/** Told of a driver that could not settle. */
type Unsettled = (node: BlockNode, error: unknown) => void

/** What nodes want together, by node; made anew for every look, because claims change between looks. */
type Seen = Map<BlockNode, Permissions | undefined>

/**
 * What a node wants of a child when its driver does not say: the same as is wanted of it. Of a backing file only to
 * read it, which must not change under its overlay, unless changes of the overlay's content are shared too.
 */
const usual = (role: string, own: Permissions): Permissions =>
  role === 'backing'
    ? {
        use: own.use.filter((permission) => permission === 'consistent read'),
        share: own.share.includes('write') ? PERMISSIONS : ['consistent read', 'write unchanged'],
      }
    : own

export class Claims {
  readonly #records: Records
  readonly #unsettled: Unsettled
  /** Newest first. */
  readonly #direct = new Map<BlockNode, Direct[]>()
  readonly #claimOf = new WeakMap<Release, Direct>()
  /** End of the queue of changes per leaf. */
  readonly #queues = new WeakMap<BlockNode, Promise<void>>()

  constructor(records: Records, unsettled: Unsettled) {
    this.#records = records
    this.#unsettled = unsettled
  }

  /**
   * @param user   as it is named in conflicts: "an unnamed block device", "block job 'job0'"
   * @param moved  given by users who go to another node when it takes this one's place
   * @throws CommandError when the node is being removed, another claim or another program excludes it, or the node cannot be written
   * @throws IoError when storage does not tell what nobody used until now holds
   */
  async claim(user: string, node: BlockNode, permissions: Permissions, moved?: Moved): Promise<Release> {
    const leaves = this.#records.leaves(node)
    using _turn = await this.turn(leaves)
    this.#records.get(node.name)
    const before: Seen = new Map()
    const unused = this.#records
      .tree(node)
      .filter((record) => this.#wanted(record.node, before) === undefined)
    const use: Direct = { user, role: 'root', permissions, node, moved }
    this.#direct.set(node, [use, ...(this.#direct.get(node) ?? [])])
    const locked: BlockNode[] = []
    try {
      const seen: Seen = new Map()
      for (const record of this.#records.tree(node)) this.#check(record.node, seen)
      for (const leaf of leaves) {
        await leaf.driver.lock?.(this.#wanted(leaf, seen))
        locked.push(leaf)
      }
      // Whoever wrote until the locks were there has changed what is known of it.
      for (const record of unused.reverse()) await record.node.driver.freshen?.()
    } catch (error) {
      this.#forget(use)
      await this.#lock(locked)
      throw error
    }
    const release = () => this.#release(use)
    this.#claimOf.set(release, use)
    return release
  }

  /**
   * One node takes another's place: claims that may move do, and some others end with it, in one step.
   * Nobody may have a request under way.
   * @param ending  claims on either node
   * @throws CommandError when the new node is excluded by others; nothing is changed then
   */
  async replace(from: BlockNode, to: BlockNode, ending: readonly Release[]): Promise<void> {
    const leaves = [...new Set([...this.#records.leaves(from), ...this.#records.leaves(to)])]
    using _turn = await this.turn(leaves)
    this.#records.get(to.name)
    const trees = [...new Set([...this.#records.tree(from), ...this.#records.tree(to)])]
    const before: Seen = new Map()
    for (const record of trees) this.#wanted(record.node, before)
    const [above, there] = [this.#direct.get(from) ?? [], this.#direct.get(to) ?? []]
    const ended = new Set(ending.map((release) => this.#claimOf.get(release)))
    const moving = above.filter((use) => use.moved !== undefined && !ended.has(use))
    this.#put(
      from,
      above.filter((use) => !ended.has(use) && !moving.includes(use)),
    )
    this.#put(to, [...moving, ...there.filter((use) => !ended.has(use))])
    try {
      const seen: Seen = new Map()
      for (const record of this.#records.tree(to)) this.#check(record.node, seen)
      await this.#lock(this.#records.leaves(to))
    } catch (error) {
      this.#put(from, above)
      this.#put(to, there)
      await this.#lock(leaves)
      throw error
    }
    for (const use of moving) {
      use.node = to
      use.moved?.(to)
    }
    await this.#settle(trees, before)
    await this.#lock(leaves).catch((error: unknown) => this.#unsettled(from, error))
  }

  isClaimed(node: BlockNode): boolean {
    return (this.#direct.get(node)?.length ?? 0) > 0
  }

  /** What all users of a node want together; undefined without users. */
  cumulative(node: BlockNode): Permissions | undefined {
    return this.#wanted(node, new Map())
  }

  /** The caller's turn to change the locks of some leaves; ends with dispose. */
  async turn(leaves: readonly BlockNode[]): Promise<Disposable> {
    const held: (() => void)[] = []
    // Everybody takes them in one order, so nobody waits for who waits for him.
    for (const leaf of [...leaves].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const before = this.#queues.get(leaf)
      this.#queues.set(leaf, new Promise((resolve) => held.push(resolve)))
      await before
    }
    return {
      [Symbol.dispose]: () => {
        for (const end of held) end()
      },
    }
  }

  async #release(use: Direct): Promise<void> {
    for (;;) {
      const { node } = use
      const leaves = this.#records.leaves(node)
      using _turn = await this.turn(leaves)
      if (!this.#direct.get(use.node)?.includes(use)) return
      // Another node took its place meanwhile: other leaves are to be waited for.
      if (use.node !== node) continue
      const before: Seen = new Map()
      const tree = this.#records.tree(node)
      for (const record of tree) this.#wanted(record.node, before)
      this.#forget(use)
      await this.#settle(tree, before)
      await this.#lock(leaves)
      return
    }
  }

  /** Nodes that nobody uses any more, or nobody to change them, write back what they hold. Locks are held still. */
  async #settle(tree: readonly NodeRecord[], before: Seen): Promise<void> {
    const now: Seen = new Map()
    for (const { node } of tree) {
      const [was, is] = [before.get(node), this.#wanted(node, now)]
      const left = was !== undefined && (is === undefined || (changes(was) && !changes(is)))
      if (left) await node.driver.settle?.().catch((error: unknown) => this.#unsettled(node, error))
    }
  }

  async #lock(leaves: readonly BlockNode[]): Promise<void> {
    const seen: Seen = new Map()
    for (const leaf of leaves) await leaf.driver.lock?.(this.#wanted(leaf, seen))
  }

  #forget(use: Direct): void {
    this.#put(
      use.node,
      (this.#direct.get(use.node) ?? []).filter((other) => other !== use),
    )
  }

  #put(node: BlockNode, uses: Direct[]): void {
    if (uses.length > 0) this.#direct.set(node, uses)
    else this.#direct.delete(node)
  }

  #wanted(node: BlockNode, seen: Seen): Permissions | undefined {
    if (seen.has(node)) return seen.get(node)
    const uses = this.#uses(node, seen)
    const together = uses.length === 0 ? undefined : united(uses)
    seen.set(node, together)
    return together
  }

  #uses(node: BlockNode, seen: Seen): Use[] {
    const uses: Use[] = [...(this.#direct.get(node) ?? [])]
    for (const { record, role } of this.#records.parents(node)) {
      const own = this.#wanted(record.node, seen)
      if (own === undefined) continue
      const permissions = record.node.driver.childPermissions?.(role, own) ?? usual(role, own)
      uses.push({ user: `node '${record.node.name}'`, role, permissions })
    }
    return uses
  }

  #check(node: BlockNode, seen: Seen): void {
    const uses = this.#uses(node, seen)
    if (node.readOnly && uses.some(({ permissions }) => changes(permissions)))
      throw new CommandError('Block node is read-only')
    for (const holder of uses) {
      for (const other of uses) {
        if (holder === other) continue
        const refused = other.permissions.use.filter((one) => !holder.permissions.share.includes(one))
        if (refused.length > 0) throw conflict(node, refused, other, holder)
      }
    }
  }
}

function united(uses: readonly Use[]): Permissions {
  return {
    use: PERMISSIONS.filter((permission) => uses.some((use) => use.permissions.use.includes(permission))),
    share: PERMISSIONS.filter((permission) =>
      uses.every((use) => use.permissions.share.includes(permission)),
    ),
  }
}

function changes(permissions: Permissions): boolean {
  return permissions.use.some((permission) => permission !== 'consistent read')
}

function conflict(node: BlockNode, refused: readonly Permission[], wants: Use, holder: Use): CommandError {
  const role = (use: Use) => `${use.user} (uses node '${node.name}' as '${use.role}' child)`
  return new CommandError(
    `Permission conflict on node '${node.name}': permissions '${refused.join(', ')}' are both ` +
      `required by ${role(wants)} and unshared by ${role(holder)}.`,
  )
}
