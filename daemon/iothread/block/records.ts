// SPDX-License-Identifier: Apache-2.0
// The nodes of a graph and their edges. Shared by the parts of the graph (opening, reopening, claims, reports).
// Changed only between awaits.

import type { FileFacts } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { NodeReport, NodeSpec } from '../messages.js'
import type { BlockNode } from './node.js'

/** Options that name or define a child, in the order children are opened. */
export const ROLES = ['file', 'image', 'target', 'data-file', 'backing'] as const
export type Role = (typeof ROLES)[number]

export interface Child {
  readonly role: Role
  readonly node: BlockNode
  /** Defined inside its parent: it is closed with it. */
  readonly inline: boolean
}

export interface NodeRecord {
  readonly node: BlockNode
  /** In the order of ROLES; empty for leaves. Changed by Records only. */
  children: readonly Child[]
  /** As the user wrote it, without what was inherited. */
  spec: NodeSpec
  /** Facts of the file behind a leaf, as last asked. */
  facts: FileFacts | undefined
  /** What the job behind a filter node knows of its dirty bitmaps. */
  readonly bitmap: (() => readonly { granularity: number; count: number }[]) | undefined
  /** The report as it was last sent. */
  sent: NodeReport | undefined
  /** Being removed: its name is taken still, but nobody new may use it. */
  closing: boolean
}

/** The file a node's own image is in, where it is in one. */
export interface Origin {
  readonly path: string | undefined
  /** `device:inode` */
  readonly identity: string | undefined
}

/** An edge seen from below. */
export interface Parent {
  readonly record: NodeRecord
  readonly role: Role
}

export class Records {
  /** In the order the nodes came to be: a child before its parent. */
  readonly #records = new Map<string, NodeRecord>()
  /** Edges by the node below, the oldest first. */
  readonly #parents = new Map<BlockNode, Parent[]>()

  add(record: NodeRecord): void {
    this.#records.set(record.node.name, record)
    for (const { node, role } of record.children) {
      this.#parents.set(node, [...(this.#parents.get(node) ?? []), { record, role }])
    }
  }

  delete(name: string): void {
    const record = this.#records.get(name)
    this.#records.delete(name)
    for (const { node } of record?.children ?? []) {
      const left = this.parents(node).filter((parent) => parent.record !== record)
      if (left.length > 0) this.#parents.set(node, left)
      else this.#parents.delete(node)
    }
  }

  /** Puts a child in the place of the one a node has, or none. */
  setChild(record: NodeRecord, role: Role, child: Omit<Child, 'role'> | undefined): void {
    for (const old of record.children) {
      if (old.role !== role) continue
      const left = this.parents(old.node).filter((edge) => edge.record !== record || edge.role !== role)
      if (left.length > 0) this.#parents.set(old.node, left)
      else this.#parents.delete(old.node)
    }
    const others = record.children.filter((other) => other.role !== role)
    const all = child === undefined ? others : [...others, { ...child, role }]
    record.children = all.sort((a, b) => ROLES.indexOf(a.role) - ROLES.indexOf(b.role))
    if (child !== undefined) this.#parents.set(child.node, [...this.parents(child.node), { record, role }])
  }

  find(name: string): NodeRecord | undefined {
    return this.#records.get(name)
  }

  /** @throws CommandError when there is no such node, or it is being removed */
  get(name: string): NodeRecord {
    const record = this.#records.get(name)
    if (record === undefined || record.closing) throw notFound(name)
    return record
  }

  /** The record's node is there to stay: not removed, nor being removed. */
  holds(record: NodeRecord): boolean {
    return this.#records.get(record.node.name) === record && !record.closing
  }

  /** @throws CommandError when the node is not there any more, or is being removed */
  checkHolds(node: BlockNode): void {
    if (this.get(node.name).node !== node) throw notFound(node.name)
  }

  all(): NodeRecord[] {
    return [...this.#records.values()]
  }

  /** All of them, parents before their children. */
  parentsFirst(): NodeRecord[] {
    const seen = new Set<NodeRecord>()
    for (const record of this.#records.values())
      if (this.parents(record.node).length === 0) this.#visit(record.node, seen)
    return [...seen].reverse()
  }

  /**
   * The way from a node down to another: through filters to the image they show, and from an image to its backing file.
   * @param to  undefined: to the end
   * @returns both ends included; undefined when the other is not on that way
   */
  chain(from: BlockNode, to?: BlockNode): NodeRecord[] | undefined {
    const way: NodeRecord[] = []
    for (let at = this.#records.get(from.name); at !== undefined; ) {
      way.push(at)
      if (at.node === to) return way
      const link = linkOf(at)
      const next = at.children.find(({ role }) => role === link)
      at = next && this.#records.get(next.node.name)
    }
    return to === undefined ? way : undefined
  }

  parents(node: BlockNode): readonly Parent[] {
    return this.#parents.get(node) ?? []
  }

  /** The node and everything below it, each once, parents before their children. */
  tree(node: BlockNode): NodeRecord[] {
    const seen = new Set<NodeRecord>()
    this.#visit(node, seen)
    return [...seen].reverse()
  }

  /** Enters a node when all below it are: read backwards, every parent comes before its children. */
  #visit(node: BlockNode, seen: Set<NodeRecord>): void {
    const record = this.#records.get(node.name)
    if (record === undefined || seen.has(record)) return
    for (const child of [...record.children].reverse()) this.#visit(child.node, seen)
    seen.add(record)
  }

  /** The nodes and everything above them, each once. */
  above(nodes: readonly BlockNode[]): NodeRecord[] {
    const seen = new Set(nodes.flatMap((node) => this.#records.get(node.name) ?? []))
    for (const { node } of seen) for (const { record } of this.parents(node)) seen.add(record)
    return [...seen]
  }

  /** The node and what was defined inside it, parents before their children. */
  own(record: NodeRecord): NodeRecord[] {
    const inline = record.children.filter((child) => child.inline)
    return [record, ...inline.flatMap(({ node }) => this.own(this.get(node.name)))]
  }

  /** Nodes without children at the ends of a tree, ordered by name. */
  leaves(node: BlockNode): BlockNode[] {
    const leaves = this.tree(node).filter((record) => record.children.length === 0)
    return leaves.map((record) => record.node).sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** Where a node keeps its own image: the leaf reached by 'file' and 'image' edges. */
  leaf(node: BlockNode): NodeRecord | undefined {
    let record = this.#records.get(node.name)
    for (let below = record; below !== undefined; ) {
      record = below
      below = this.#storage(below)
    }
    return record
  }

  /** The first node on the way to the leaf that is of a format. */
  format(node: BlockNode): NodeRecord | undefined {
    let record = this.#records.get(node.name)
    while (record !== undefined && record.node.driver.format === undefined) record = this.#storage(record)
    return record
  }

  /** Formats between a node with these children and its storage, on the longest way; backing files do not count. */
  formatsBelow(children: readonly Child[]): number {
    let most = 0
    for (const { role, node } of children) {
      if (role === 'backing') continue
      const below = this.formatsBelow(this.#records.get(node.name)?.children ?? [])
      most = Math.max(most, below + (node.driver.format === undefined ? 0 : 1))
    }
    return most
  }

  #storage(record: NodeRecord): NodeRecord | undefined {
    const storage = record.children.find(({ role }) => role === 'file' || role === 'image')
    return storage && this.#records.get(storage.node.name)
  }

  origin(node: BlockNode): Origin {
    const leaf = this.leaf(node)
    const filename = leaf?.spec.filename
    const facts = leaf?.facts
    return {
      path: typeof filename === 'string' ? filename : undefined,
      identity: facts && `${facts.device}:${facts.inode}`,
    }
  }
}

function notFound(name: string): CommandError {
  return new CommandError(`Cannot find device='${name}' nor node-name='${name}'`)
}

/** Which child of a node shows the same, or what shows through it: a filter's only one, the backing file of an image. */
function linkOf(record: NodeRecord): Role | undefined {
  if (record.node.driver.format !== undefined) return 'backing'
  return record.children.length === 1 ? record.children[0]?.role : undefined
}
