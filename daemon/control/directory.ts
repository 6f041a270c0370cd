// SPDX-License-Identifier: Apache-2.0
// Directory of nodes: names, edges, which worker holds what, and who uses it. Only what main-thread commands decide
// on; sizes and states of images are the workers' reports. Changed by Graphs and by the job starters.
// Invariant: a name is in the directory from before its node is opened until after it is closed, so two commands can
// never work on one name at once.

import assert from 'node:assert'
import { isIdentifier } from '../common/identifier.js'
import { CommandError } from '../errors.js'
import type { NodeDefinition, NodeReport, NodeSpec } from '../iothread/messages.js'
import type { CredentialsPlace } from '../tls/messages.js'
import { type Descriptors, type SetUse, setOf } from './descriptors.js'
import type { JobType } from './jobs/plan.js'
import type { DiskWorker } from './workers.js'

/** A node as users define it: children are names of nodes or definitions. */
export type Definition = NodeDefinition

/** Children of all drivers, in the order they are entered. */
const ROLES = ['file', 'image', 'target', 'data-file', 'backing'] as const
/** Children that come to be before their parent; others after it, as the order of listings shows. */
const FIRST: ReadonlySet<string> = new Set(['file', 'image'])

export interface NodeUse {
  readonly job: string
  /** Its kind, as users are told. */
  readonly type: JobType
  readonly role: 'source' | 'target' | 'filter' | 'chain'
}

export interface Node {
  readonly name: string
  /** Options with children as names. Replaced by reopen. */
  spec: NodeSpec
  /** Set when it is placed, changed when it moves. */
  worker: DiskWorker | undefined
  /** 'changing': a command moves, reopens or resizes it. */
  state: 'opening' | 'open' | 'changing' | 'closing'
  /** Names by role. Grows while the node is being opened. */
  readonly children: Map<string, string>
  readonly parents: Set<string>
  /**
   * Who decides over its end: a user, the parent it was defined in, the job it was made for, or nobody: it goes with its last
   * use. Changed by relink(), when a job ends, and by what a job reports.
   */
  owner: { readonly kind: 'user' | 'nobody' } | { readonly kind: 'parent' | 'job'; readonly name: string }
  /** The set of descriptors its file name means, in use as long as the node is here. */
  readonly set: SetUse | undefined
  /** TLS credentials of its connections, as they were when it was defined. */
  readonly credentials: CredentialsPlace | undefined
  /** Changed between awaits only, by job starters. */
  use: NodeUse | undefined
  /** Ids of the exports that serve it. Changed between awaits only, by Exports. */
  readonly exports: Set<string>
  /** Storage before parents, backing files after them, later commands higher. */
  order: number
}

export type Owner = Node['owner']

/** What nodes refer to that is no node. */
export interface Referred {
  readonly descriptors: Descriptors
  /** TLS credentials of a client. @throws CommandError when there are none of that name */
  credentials(id: string): CredentialsPlace
}

export class Directory {
  readonly #referred: Referred
  readonly #nodes = new Map<string, Node>()
  #order = 0
  #generated = 0

  constructor(referred: Referred) {
    this.#referred = referred
  }

  /**
   * Enters a definition with everything defined inside it; edges to named children are there at once.
   * @returns the root; nodes are in state 'opening' and have no worker
   * @throws CommandError for names that are bad or taken, unknown children, sets or credentials; nothing is entered then
   */
  enter(definition: Definition, owner: Owner): Node {
    const names = new Set<string>()
    this.#checkDefinition(definition, names)
    this.#checkReferred(definition)
    return this.#enter(definition, owner, names)
  }

  /**
   * Enters the children that a node being opened turned out to have.
   * @param definition  the node's, with the names of what was entered before
   * @returns the new nodes
   */
  extend(node: Node, definition: Definition): Node[] {
    const fresh: Node[] = []
    if (definition.named !== undefined) node.spec = { ...node.spec, named: definition.named }
    for (const [role, child] of childrenOf(definition)) {
      if (typeof child === 'string') continue
      const known = this.child(node, role)
      if (known !== undefined) {
        fresh.push(...this.extend(known, child))
        continue
      }
      const entered = this.#enterChild(node.name, role, child, node.children, new Set())
      node.spec = { ...node.spec, [role]: entered.name }
      fresh.push(...this.own(entered))
    }
    return fresh
  }

  /** A name nobody uses or ever used. */
  generateName(taken: ReadonlySet<string> = new Set()): string {
    let name: string
    do name = `#block${++this.#generated}`
    while (this.#nodes.has(name) || taken.has(name))
    return name
  }

  /** @throws CommandError when no new node may have this name */
  checkNewName(name: string): void {
    if (!isIdentifier(name)) throw new CommandError(`Invalid node-name: '${name}'`)
    if (this.#nodes.has(name)) throw new CommandError(`Duplicate nodes with node-name='${name}'`)
    if (name.length > 31) throw new CommandError('Node name too long')
  }

  /** Removes a node and what was defined inside it. Does nothing when it is gone already. */
  remove(node: Node): void {
    if (this.#nodes.get(node.name) !== node) return
    this.#nodes.delete(node.name)
    node.worker?.release()
    node.set?.release()
    for (const name of node.children.values()) {
      const child = this.#nodes.get(name)
      child?.parents.delete(node.name)
      if (child?.owner.kind === 'parent' && child.owner.name === node.name) this.remove(child)
    }
  }

  /**
   * A job put another node below a node, or none.
   * @param owned  the new child is closed with the node
   */
  relink(node: Node, role: string, child: Node | undefined, owned: boolean): void {
    const old = this.child(node, role)
    if (old !== undefined && old !== child) {
      const others = [...node.children].some(([other, name]) => other !== role && name === old.name)
      if (!others) old.parents.delete(node.name)
    }
    const { [role]: _, ...spec } = node.spec
    if (child === undefined) {
      node.children.delete(role)
      // The image names none any more.
      node.spec = spec as NodeSpec
      return
    }
    node.children.set(role, child.name)
    node.spec = { ...(spec as NodeSpec), [role]: child.name }
    child.parents.add(node.name)
    if (owned) child.owner = { kind: 'parent', name: node.name }
    else if (isOwnedBy(child, node)) child.owner = { kind: 'user' }
  }

  /** Those of some nodes that nobody uses any more, and that are to go then. */
  unused(among: Iterable<Node>): Node[] {
    return [...among]
      .filter((node) => this.has(node))
      .filter(
        ({ owner, state, parents, exports, use }) =>
          owner.kind === 'nobody' &&
          state === 'open' &&
          parents.size + exports.size === 0 &&
          use === undefined,
      )
  }

  /** Puts entered nodes into a worker, which each of them then holds. */
  place(nodes: readonly Node[], worker: DiskWorker): void {
    for (const node of nodes) {
      worker.hold()
      node.worker?.release()
      node.worker = worker
    }
  }

  /** Makes a node the newest. */
  renew(node: Node): void {
    node.order = this.#order++
  }

  has(node: Node): boolean {
    return this.#nodes.get(node.name) === node
  }

  /** A node that commands may name. */
  find(name: string): Node | undefined {
    const node = this.#nodes.get(name)
    return node?.state === 'opening' || node?.state === 'closing' ? undefined : node
  }

  all(): Iterable<Node> {
    return this.#nodes.values()
  }

  report(node: Node): NodeReport | undefined {
    return node.worker?.reports.get(node.name)
  }

  children(node: Node): Node[] {
    return [...node.children.values()].flatMap((name) => this.#nodes.get(name) ?? [])
  }

  child(node: Node, role: string): Node | undefined {
    const name = node.children.get(role)
    return name === undefined ? undefined : this.#nodes.get(name)
  }

  /** The node and everything below it, parents before children. */
  tree(node: Node): Node[] {
    return this.#below(node, () => true)
  }

  /** The node and what its own layer is stored in: everything below it but backing chains. */
  layer(node: Node): Node[] {
    return this.#below(node, (role) => role !== 'backing')
  }

  #below(node: Node, follow: (role: string) => boolean): Node[] {
    const seen = new Set<Node>()
    const visit = (node: Node | undefined) => {
      if (node === undefined || seen.has(node)) return
      seen.add(node)
      for (const [role, name] of node.children) if (follow(role)) visit(this.#nodes.get(name))
    }
    visit(node)
    return [...seen]
  }

  /** The node with all that was defined inside it. */
  own(node: Node): Node[] {
    const inline = this.children(node).filter(
      (child) => child.owner.kind === 'parent' && child.owner.name === node.name,
    )
    return [node, ...inline.flatMap((child) => this.own(child))]
  }

  /** Options of a node with those of its inline children in their places, as workers open them. */
  nested(node: Node): NodeSpec {
    const inline: Record<string, NodeSpec> = {}
    for (const [role, name] of node.children) {
      const child = this.#nodes.get(name)
      if (child?.owner.kind === 'parent' && child.owner.name === node.name) inline[role] = this.nested(child)
    }
    const format = this.report(node)?.format
    const named = format && { named: format.backingFile ?? '' }
    return this.complete(node, { ...node.spec, ...inline, ...named })
  }

  /** Options of a node as workers take them: with what it refers to, files of a set of descriptors or TLS credentials. */
  complete({ set, credentials }: Node, spec: NodeSpec): NodeSpec {
    return {
      ...spec,
      ...(set !== undefined && { files: set.files() }),
      ...(credentials !== undefined && { credentials }),
    }
  }

  /**
   * Keeps the set in use that a file name means; undefined for an ordinary name.
   * @throws CommandError when there is no such set
   */
  useSet(filename: unknown): SetUse | undefined {
    const id = typeof filename === 'string' ? setOf(filename) : undefined
    return id === undefined ? undefined : this.#referred.descriptors.use(id)
  }

  /**
   * The connected graph around a node: edges, nodes of one job, nodes of one throttle group.
   * @param without  nodes that do not count, nor connect
   * @param job      a job that does not connect (yet)
   */
  graph(node: Node, without: ReadonlySet<Node> = new Set(), job?: string): Set<Node> {
    const seen = new Set<Node>()
    const visit = (node: Node | undefined) => {
      if (node === undefined || seen.has(node) || without.has(node)) return
      seen.add(node)
      for (const name of node.children.values()) visit(this.#nodes.get(name))
      for (const name of node.parents) visit(this.#nodes.get(name))
      const use = node.use?.job === job ? undefined : node.use?.job
      const group = node.spec['throttle-group']
      if (use === undefined && group === undefined) return
      for (const other of this.#nodes.values())
        if (
          (use !== undefined && other.use?.job === use) ||
          (group && other.spec['throttle-group'] === group)
        )
          visit(other)
    }
    visit(node)
    return seen
  }

  #checkDefinition(definition: Definition, names: Set<string>): void {
    for (const [, child] of childrenOf(definition)) {
      if (typeof child === 'string') this.#checkChild(child)
      else this.#checkDefinition(child, names)
    }
    const name = definition['node-name']
    if (name === undefined) return
    this.checkNewName(name)
    if (names.has(name)) throw new CommandError(`Duplicate nodes with node-name='${name}'`)
    names.add(name)
  }

  #checkReferred(definition: Definition): void {
    for (const [, child] of childrenOf(definition)) if (typeof child !== 'string') this.#checkReferred(child)
    this.#setFor(definition)?.release()
    this.#credentialsFor(definition)
  }

  #checkChild(name: string): void {
    const child = this.find(name)
    if (child === undefined) throw new CommandError(`Cannot find device='${name}' nor node-name='${name}'`)
    // It goes with its job; what is above it could neither stay nor be closed.
    if (child.owner.kind === 'job')
      throw new CommandError(`Node '${name}' is busy: it belongs to job '${child.owner.name}'`)
  }

  #enter(definition: Definition, owner: Owner, taken: ReadonlySet<string>): Node {
    const name = definition['node-name'] ?? this.generateName(taken)
    const children = new Map<string, string>()
    const enter = (first: boolean) => {
      for (const [role, child] of childrenOf(definition))
        if (FIRST.has(role) === first) this.#enterChild(name, role, child, children, taken)
    }
    enter(true)
    const order = this.#order++
    enter(false)
    const spec: NodeSpec = { ...definition, 'node-name': name, ...Object.fromEntries(children) }
    const parents = new Set<string>()
    const [set, credentials] = [this.#setFor(definition), this.#credentialsFor(definition)]
    const node: Node = {
      ...{ name, spec, children, parents, owner, order, set, credentials },
      ...{ worker: undefined, state: 'opening', use: undefined, exports: new Set() },
    }
    this.#nodes.set(name, node)
    return node
  }

  /** What images name themselves is a path: they come from anybody. */
  #setFor({ driver, filename, implied }: Definition): SetUse | undefined {
    const onFile = driver === 'file' || driver === 'host_device'
    return onFile && implied !== true ? this.useSet(filename) : undefined
  }

  #credentialsFor(definition: Definition): CredentialsPlace | undefined {
    const id = definition['tls-creds']
    return typeof id === 'string' ? this.#referred.credentials(id) : undefined
  }

  #enterChild(
    parent: string,
    role: string,
    child: string | Definition,
    children: Map<string, string>,
    taken: ReadonlySet<string>,
  ): Node {
    const owner = { kind: 'parent', name: parent } as const
    const node = typeof child === 'string' ? this.#named(child) : this.#enter(child, owner, taken)
    node.parents.add(parent)
    children.set(role, node.name)
    return node
  }

  /** A node that was looked for before. */
  #named(name: string): Node {
    const node = this.#nodes.get(name)
    assert(node !== undefined)
    return node
  }
}

function isOwnedBy({ owner }: Node, parent: Node): boolean {
  return owner.kind === 'parent' && owner.name === parent.name
}

/** Children of a definition by role: names of nodes, or definitions. */
export function childrenOf(definition: Definition): [string, string | Definition][] {
  return ROLES.flatMap((role) => {
    const child = definition[role]
    return child === undefined || child === null ? [] : [[role, child as string | Definition]]
  })
}
