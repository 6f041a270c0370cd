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
  /** The parent it is the use of. */
  readonly parent?: BlockNode
  /** A parent that this use does not disturb, nor is disturbed by. */
  readonly beside?: BlockNode | undefined
}

/** A claim. */
interface Direct extends Use {
  /** Changed by replace() only. */
  node: BlockNode
  /** Undefined: its user stays where it is. */
  readonly moved: Moved | undefined
  readonly standing: boolean
}

/** A change that was made and may still be taken back. */
export interface Rearranged {
  readonly undo: () => void
  /** It is for good. */
  readonly moved: () => void
}

/** Told of a driver that could not settle. */
type Unsettled = (node: BlockNode, error: unknown) => void

/** Told of nodes of which everything was learned anew. */
type Freshened = (records: readonly NodeRecord[]) => void

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

export interface ClaimHow {
  /** Given by users who go to another node when it takes this one's place. */
  readonly moved?: Moved | undefined
  /** A parent of the node for which nothing changes, whatever is done here: what it shows does not come from this node. */
  readonly beside?: BlockNode | undefined
  /** The node's own; see Standing. */
  readonly standing?: boolean
}

export class Claims {
  readonly #records: Records
  readonly #unsettled: Unsettled
  readonly #freshened: Freshened
  /** Newest first. */
  readonly #direct = new Map<BlockNode, Direct[]>()
  readonly #claimOf = new WeakMap<Release, Direct>()
  /** End of the queue of changes per leaf. */
  readonly #queues = new WeakMap<BlockNode, Promise<void>>()

  constructor(records: Records, unsettled: Unsettled, freshened: Freshened) {
    this.#records = records
    this.#unsettled = unsettled
    this.#freshened = freshened
  }

  /**
   * @param user  as it is named in conflicts: "an unnamed block device", "block job 'job0'"
   * @throws CommandError when the node is being removed, another claim or another program excludes it, or the node cannot be written
   * @throws IoError when storage does not tell what nobody used until now holds
   */
  async claim(
    user: string,
    node: BlockNode,
    permissions: Permissions,
    { moved, beside, standing = false }: ClaimHow = {},
  ): Promise<Release> {
    const leaves = this.#records.leaves(node)
    using _turn = await this.turn(leaves)
    this.#records.get(node.name)
    const before: Seen = new Map()
    const tree = this.#records.tree(node)
    for (const record of tree) this.#wanted(record.node, before)
    const use: Direct = { user, role: 'root', permissions, node, moved, beside, standing }
    this.#direct.set(node, [use, ...(this.#direct.get(node) ?? [])])
    const locked: BlockNode[] = []
    try {
      const seen: Seen = new Map()
      for (const record of tree) this.#check(record.node, seen)
      for (const leaf of leaves) {
        await leaf.driver.lock?.(this.#wanted(leaf, seen))
        locked.push(leaf)
      }
      this.#freshened(await this.#freshen(tree, before))
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
   * The graph changes, in one step with the claims that go with it. Nobody may have a request under way at what changes.
   * @param touched  nodes that are concerned, with all below them, before or after
   * @param change   makes the change, without waiting
   * @throws CommandError when somebody excludes what is so then; nothing is changed
   */
  async rearrange(touched: readonly BlockNode[], change: () => Rearranged): Promise<void> {
    const leaves = unique(touched.flatMap((node) => this.#records.leaves(node)))
    using _turn = await this.turn(leaves)
    for (const node of touched) this.#records.get(node.name)
    const trees = unique(touched.flatMap((node) => this.#records.tree(node)))
    const before: Seen = new Map()
    for (const { node } of trees) this.#wanted(node, before)
    const { undo, moved } = change()
    try {
      const after: Seen = new Map()
      for (const { node } of trees) this.#check(node, after)
      // What is given up is held until it was written back.
      for (const leaf of leaves) await leaf.driver.lock?.(joined(before.get(leaf), this.#wanted(leaf, after)))
      await this.#freshen(trees, before)
    } catch (error) {
      undo()
      await this.#lock(leaves)
      throw error
    }
    moved()
    await this.#settle(trees, before)
    const [first] = touched
    await this.#lock(leaves).catch((error: unknown) => first && this.#unsettled(first, error))
  }

  /** For rearrange(): claims that may move do, and some others end. */
  move(from: BlockNode, to: BlockNode, ending: readonly Release[]): Rearranged {
    const ended = this.end(ending)
    const [above, there] = [this.#direct.get(from) ?? [], this.#direct.get(to) ?? []]
    const moving = above.filter((use) => use.moved !== undefined)
    this.#put(
      from,
      above.filter((use) => !moving.includes(use)),
    )
    this.#put(to, [...moving, ...there])
    return {
      undo: () => {
        this.#put(from, above)
        this.#put(to, there)
        ended.undo()
      },
      moved: () => {
        for (const use of moving) {
          use.node = to
          use.moved?.(to)
        }
      },
    }
  }

  /** For rearrange(): some claims end. */
  end(ending: readonly Release[]): Rearranged {
    const ended = new Set(ending.map((release) => this.#claimOf.get(release)))
    const changed = [...this.#direct].filter(([, uses]) => uses.some((use) => ended.has(use)))
    for (const [node, uses] of changed)
      this.#put(
        node,
        uses.filter((use) => !ended.has(use)),
      )
    return {
      undo: () => {
        for (const [node, uses] of changed) this.#put(node, uses)
      },
      moved: () => undefined,
    }
  }

  isClaimed(node: BlockNode): boolean {
    return (this.#direct.get(node) ?? []).some(({ standing }) => !standing)
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

  /** The locks are there. Who changed something until then has changed what is known of it. @returns what was learned anew */
  async #freshen(tree: readonly NodeRecord[], before: Seen): Promise<readonly NodeRecord[]> {
    const now: Seen = new Map()
    const fresh = tree.filter(({ node }) => isUnknown(node, before.get(node), this.#wanted(node, now)))
    for (const { node } of [...fresh].reverse()) await node.driver.freshen?.()
    return fresh
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
      uses.push({ user: `node '${record.node.name}'`, role, permissions, parent: record.node })
    }
    return uses
  }

  #check(node: BlockNode, seen: Seen): void {
    const uses = this.#uses(node, seen)
    if (node.readOnly && uses.some(({ permissions }) => changes(permissions)))
      throw new CommandError('Block node is read-only')
    for (const holder of uses) {
      for (const other of uses) {
        if (holder === other || isBeside(holder, other) || isBeside(other, holder)) continue
        const { share } = holder.permissions
        const refused = other.permissions.use.filter(
          (one) => !share.includes(one) && !(one === 'resize' && follows(holder, other)),
        )
        if (refused.length > 0) throw conflict(node, refused, other, holder)
      }
    }
  }
}

/** Nobody used it, or its users let other programs change the file, which nobody does any more. */
function isUnknown({ driver }: BlockNode, before?: Permissions, now?: Permissions): boolean {
  if (before === undefined) return now !== undefined
  return driver.lock !== undefined && !excludesWriters(before) && now !== undefined && excludesWriters(now)
}

function excludesWriters({ share }: Permissions): boolean {
  return !share.includes('write') && !share.includes('resize')
}

/** Who goes with a disk wherever it goes hears of its new length too, when it is given by a user of the same node. */
function follows(holder: Use | Direct, { role }: Use): boolean {
  return role === 'root' && 'moved' in holder && holder.moved !== undefined
}

function isBeside(use: Use, { parent }: Use): boolean {
  return parent !== undefined && use.beside === parent
}

function joined(one: Permissions | undefined, other: Permissions | undefined): Permissions | undefined {
  if (one === undefined || other === undefined) return one ?? other
  const use = (permissions: Permissions): Use => ({ user: '', role: '', permissions })
  return united([use(one), use(other)])
}

function unique<T>(list: readonly T[]): T[] {
  return [...new Set(list)]
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
