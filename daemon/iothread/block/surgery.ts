// SPDX-License-Identifier: Apache-2.0
// Graph surgery: nodes take each other's places, and images lose what lay between them. Part of the graph; used by jobs and transactions.
//
// Rules: what changes shows the same before and after, and has no request under way. Edges and claims change in one step.
// The image on the disk comes first, so a chain on the disk is always one that reads the same as the chain in memory.

import { CommandError } from '../../errors.js'
import type { EdgeChange } from '../messages-chain.js'
import type { Claim, Claims, Rearranged } from './claims.js'
import type { BackingFile } from './driver.js'
import type { BlockNode } from './node.js'
import type { Child, NodeRecord, Parent, Records, Role } from './records.js'
import { restingSoon } from './rest.js'
import type { TopFilter } from './top-filters.js'

export interface SurgeryEnv {
  readonly records: Records
  readonly claims: Claims
  /** Told of edges that changed, and of nodes that go on without the one they were defined in. */
  readonly rearranged: (
    edges: readonly EdgeChange[],
    kept: readonly string[],
    shared: readonly string[],
  ) => void
  readonly report: (records: readonly NodeRecord[]) => void
  /** Closes a node and what is defined inside it. */
  readonly remove: (name: string) => Promise<void>
}

/** Nodes whose requests are held back. */
export interface Held extends Disposable {
  readonly nodes: ReadonlySet<BlockNode>
}

export interface HoldHow {
  /** They are to get another node below them. */
  readonly moving: boolean
  /** Gives up waiting. */
  readonly signal?: AbortSignal
}

export interface PivotHow {
  /** Nodes above the replaced one whose requests are held back. */
  readonly held: ReadonlySet<BlockNode>
  /** Claims on either node that end with it. */
  readonly ending: readonly Claim[]
  /** The replaced node becomes the backing file of the one that takes its place. */
  readonly underlay?: boolean
}

/** An overlay that was put on a node. One of the two is called, once. */
export interface Appended {
  /** Those who follow the graph hear of it. */
  keep(): void
  /** All is as it was. @throws when that cannot be; the overlay stays then, as if it was kept */
  undo(): Promise<void>
}

interface Owning {
  /** The child is closed with the parent. */
  readonly inline: boolean
}

type Link = Omit<Child, 'role'> | undefined

export class Surgery {
  readonly #env: SurgeryEnv

  constructor(env: SurgeryEnv) {
    this.#env = env
  }

  /**
   * Holds back what comes to a node from nodes above it.
   * @param except  filters of jobs
   * @param to      what else the parents may be part of: a node whose place is to be the first one's does not lie above itself
   * @throws CommandError when a parent cannot be moved and is to be; Cancelled. Nothing is held back then
   */
  async hold(node: BlockNode, except: readonly BlockNode[], to: BlockNode, how: HoldHow): Promise<Held> {
    const parents = this.#parents(node, except, to)
    for (const parent of parents)
      if (how.moving && !isMovable(parent, node, to))
        throw new CommandError(
          `Node '${parent.record.node.name}' lies above '${node.name}' and cannot be moved to '${to.name}'`,
        )
    const nodes = new Set(parents.map(({ record }) => record.node))
    const sections: Disposable[] = []
    const held: Held = {
      nodes,
      [Symbol.dispose]: () => {
        for (const section of sections.splice(0)) section[Symbol.dispose]()
      },
    }
    try {
      // Parents first: a drained child would hold up its parent's requests for ever.
      for (const { node: parent } of this.#env.records.parentsFirst())
        if (nodes.has(parent)) sections.push(await parent.drain(how.signal))
    } catch (error) {
      held[Symbol.dispose]()
      throw error
    }
    return held
  }

  /**
   * Another node takes the place of the node below a filter, or of one that is reached from there through filters: those
   * above it and claims that may move go to it, and so do requests that wait in the filter.
   * Called in drained sections of the filter and the node below.
   * @throws CommandError when the node cannot be replaced; nothing is changed then
   */
  async pivot(
    filter: TopFilter,
    replaced: BlockNode,
    to: BlockNode,
    { held, ending, underlay }: PivotHow,
  ): Promise<void> {
    const { records, claims } = this.#env
    const edges = this.#parents(replaced, [filter.node], to)
    for (const edge of edges) this.#checkHeld(edge, replaced, to, held)
    const releases = ending.map(({ release }) => release)
    const below: Parent[] = underlay === true ? [{ record: records.get(to.name), role: 'backing' }] : []
    const links = [
      ...below.map((edge) => changed(edge, replaced)),
      ...[...edges, ...this.#owners(to)].map((edge) => changed(edge, to)),
    ]
    const kept = edges.some(({ record }) => ownsChild(record, replaced)) ? [replaced.name] : []
    await claims.rearrange([replaced, to, ...edges.map(({ record }) => record.node)], () => {
      // What is to show through it comes first: nobody may read it without.
      const laid = below.map(({ record, role }) =>
        this.#link(record, role, { node: replaced, inline: false }),
      )
      const moved = claims.move(replaced, to, releases)
      const linked = [...edges, ...this.#owners(to)].map(({ record, role }) =>
        this.#link(record, role, { node: to, inline: false }),
      )
      return together([...laid, moved, ...linked])
    })
    if (replaced === filter.below) filter.redirect(to)
    const shared = this.#share(replaced, to)
    const names = shared.flatMap(({ child }) => child ?? [])
    this.#env.rearranged([...links, ...shared], kept, names)
    this.#env.report(records.above([to, replaced]))
  }

  /**
   * An image lies above another one of its chain from now on, or above none, and names it so. What lay between is closed
   * unless somebody else has it.
   * @param top     claimed for writing
   * @param name    how the image names the other one
   * @param ending  claims that end with it
   * @param mostMs  time in which it is to come to rest
   * @throws CommandError when it does not, or the other one is not below it any more; nothing is changed then
   */
  async rebase(
    top: BlockNode,
    base: BlockNode | undefined,
    name: BackingFile | undefined,
    ending: readonly Claim[],
    mostMs?: number,
  ): Promise<void> {
    const { records, claims } = this.#env
    const record = records.get(top.name)
    const first = record.children.find(({ role }) => role === 'backing')
    if (first !== undefined && first.node !== base) {
      if (base !== undefined && records.chain(first.node, base) === undefined)
        throw new CommandError(`Node '${base.name}' is not below '${top.name}' any more`)
      const touched = base === undefined ? [top, first.node] : [top, first.node, base]
      using _drained = await restingSoon(top.name, (signal) => top.drain(signal), mostMs)
      await top.driver.nameBacking?.(name)
      await claims.rearrange(touched, () => {
        const ended = claims.end(ending.map(({ release }) => release))
        const link = base && { node: base, inline: false }
        return together([ended, this.#link(record, 'backing', link)])
      })
    } else await top.driver.nameBacking?.(name)
    await this.#drop(record, first, base)
    this.#env.report(records.above([top]))
  }

  /** An image names another backing file; what is open stays. @param top  claimed for writing */
  async rename(top: BlockNode, name: BackingFile | undefined): Promise<void> {
    if (top.driver.nameBacking === undefined) throw new CommandError('not supported by this driver')
    await top.driver.nameBacking(name)
    this.#env.report(this.#env.records.above([top]))
  }

  /**
   * An empty overlay gets the node below a filter as its backing file, and its users, who use it through the filter. Until it
   * is kept those who follow the graph are not told, and it can be undone, if the filter is drained still.
   */
  async append(filter: TopFilter, overlay: BlockNode, held: ReadonlySet<BlockNode>): Promise<Appended> {
    const { records, claims } = this.#env
    const { below } = filter
    const record = records.get(overlay.name)
    if (record.children.some(({ role }) => role === 'backing'))
      throw new CommandError('The overlay already has a backing image')
    const edges = this.#parents(below, [filter.node], overlay)
    for (const edge of edges) this.#checkHeld(edge, below, overlay, held)
    const before = edges.map((edge) => ({ ...edge, inline: ownsChild(edge.record, below) }))
    // One above that is being removed goes along, so that its end finds what it lies above; nobody uses it any more.
    const present = () => before.filter(({ record: above }) => records.find(above.node.name) === above)
    const change = (from: BlockNode, to: BlockNode, backing: Link, inline: (edge: Owning) => boolean) =>
      claims.rearrange([below, overlay], () => {
        const linked = this.#link(record, 'backing', backing)
        // Before any user is told: what he asks from then on waits too.
        const through = { undo: () => undefined, moved: () => filter.moveTo(to) }
        const moved = claims.move(from, to, [])
        const others = present().map((edge) =>
          this.#link(edge.record, edge.role, { node: to, inline: inline(edge) }),
        )
        return together([through, linked, moved, ...others])
      })
    await change(below, overlay, { node: below, inline: false }, () => false)
    const keep = () => {
      this.#env.rearranged(
        [
          { node: overlay.name, role: 'backing', child: below.name, owned: false },
          ...present().map(({ record: { node }, role }) => ({
            ...{ node: node.name, role, child: overlay.name, owned: false },
          })),
        ],
        before.some(({ inline }) => inline) ? [below.name] : [],
        [],
      )
      this.#env.report(records.above([overlay, below]))
    }
    const undo = async () => {
      try {
        await change(overlay, below, undefined, ({ inline }) => inline)
      } catch (error) {
        keep()
        throw error
      }
    }
    return { keep, undo }
  }

  #parents(node: BlockNode, except: readonly BlockNode[], above: BlockNode): Parent[] {
    const { records } = this.#env
    const apart = new Set([...except, ...records.tree(above).map((record) => record.node)])
    // What lies below the other node stays where it is: a node cannot lie above itself.
    return records.parents(node).filter(({ record }) => !apart.has(record.node))
  }

  /** Those in which a node was defined: with users of its own it does not end with them. */
  #owners(node: BlockNode): Parent[] {
    return this.#env.records.parents(node).filter(({ record }) => ownsChild(record, node))
  }

  /** What was defined inside a node, or below it, and is below another one too, does not end with the first. */
  #share(from: BlockNode, to: BlockNode): EdgeChange[] {
    const { records } = this.#env
    const theirs = new Set(records.tree(to).map(({ node }) => node))
    const edges: EdgeChange[] = []
    for (const record of records.tree(from)) {
      if (theirs.has(record.node)) continue
      for (const { role, node, inline } of record.children) {
        if (!inline || !theirs.has(node)) continue
        const link = { node, inline: false }
        records.setChild(record, role, link)
        record.spec = this.#specWith(record, role, link)
        edges.push(changed({ record, role }, node))
      }
    }
    return edges
  }

  #checkHeld(edge: Parent, from: BlockNode, to: BlockNode, held: ReadonlySet<BlockNode>): void {
    const { node } = edge.record
    if (held.has(node) && isMovable(edge, from, to)) return
    throw new CommandError(
      `Node '${node.name}' was put above '${from.name}' meanwhile and cannot be moved to '${to.name}'`,
    )
  }

  #link(record: NodeRecord, role: Role, link: Link): Rearranged {
    const { records } = this.#env
    const old = record.children.find((child) => child.role === role)
    const spec = record.spec
    const set = (to: Link) => {
      records.setChild(record, role, to)
      record.node.driver.replaceChild?.(role, to?.node)
    }
    set(link)
    record.spec = this.#specWith(record, role, link)
    return {
      undo: () => {
        set(old)
        record.spec = spec
      },
      moved: () => undefined,
    }
  }

  #specWith({ spec, node }: NodeRecord, role: Role, link: Link): NodeRecord['spec'] {
    const { [role]: _, ...others } = spec
    const base = others as NodeRecord['spec']
    if (link === undefined) {
      // An image that names none needs no word about it.
      return node.driver.format?.().backingFile === undefined ? base : { ...base, [role]: null }
    }
    const below = this.#env.records.get(link.node.name)
    return { ...base, [role]: link.inline ? below.spec : link.node.name }
  }

  /**
   * Closes what was defined inside the others on the way from an image to its new backing file, as far as nobody has it.
   * What the image was above owned the base perhaps; then the image does now.
   */
  async #drop(top: NodeRecord, old: Child | undefined, base: BlockNode | undefined): Promise<void> {
    const { records } = this.#env
    const edges: EdgeChange[] = []
    const going = old === undefined || old.node === base ? [] : this.#unused(old, base)
    const last = going.at(-1)
    const end = last && this.#below(last)
    let owned = false
    if (last !== undefined && end?.inline === true) {
      records.setChild(last, end.role, { node: end.node, inline: false })
      owned = end.node === base
      if (owned) this.#link(top, 'backing', { node: end.node, inline: true })
      else edges.push({ node: last.node.name, role: end.role, child: end.node.name, owned: false })
    }
    if (old?.node !== base)
      edges.push({ node: top.node.name, role: 'backing', child: base?.name ?? null, owned })
    const stays = old?.inline === true && old.node !== base && going.length === 0
    this.#env.rearranged(edges, stays ? [old.node.name] : [], [])
    const [first] = going
    // Somebody else may have begun to.
    if (first !== undefined && records.holds(first)) await this.#env.remove(first.node.name)
  }

  /** Nodes from one on down to the base that only the node above has. */
  #unused(old: Child, base: BlockNode | undefined): NodeRecord[] {
    const { records, claims } = this.#env
    const between = (records.chain(old.node, base) ?? []).filter(({ node }) => node !== base)
    const going: NodeRecord[] = []
    for (const record of between) {
      const above = going.at(-1)
      const owned = above === undefined ? old.inline : ownsChild(above, record.node)
      const others = records.parents(record.node).some((parent) => parent.record !== above)
      if (!owned || others || claims.isClaimed(record.node)) break
      going.push(record)
    }
    return going
  }

  #below(record: NodeRecord): Child | undefined {
    const next = this.#env.records.chain(record.node)?.[1]
    return record.children.find(({ node }) => node === next?.node)
  }
}

/** A snapshot is as long as what it was made of, and stays where it is kept. */
function isMovable({ record, role }: Parent, from: BlockNode, to: BlockNode): boolean {
  const { driver } = record.node
  if (driver.snapshot !== undefined && (role !== 'file' || to.size() !== from.size())) return false
  return driver.replaceChild !== undefined
}

/** As those are told who follow the graph. */
function changed({ record, role }: Parent, to: BlockNode): EdgeChange {
  return { node: record.node.name, role, child: to.name, owned: false }
}

function ownsChild(record: NodeRecord, child: BlockNode): boolean {
  return record.children.some(({ node, inline }) => node === child && inline)
}

function together(all: readonly Rearranged[]): Rearranged {
  return {
    undo: () => {
      for (const each of [...all].reverse()) each.undo()
    },
    moved: () => {
      for (const each of all) each.moved()
    },
  }
}
