// SPDX-License-Identifier: Apache-2.0
// Those who use what a mirror copies: held up at its end, in two steps, and moved to the target when it takes the source's
// place. Used by mirror.ts. Until they are let go none of them has a request under way.

import type { Claim } from '../block/claims.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import type { Held, HoldHow } from '../block/surgery.js'
import type { TopFilter } from '../block/top-filters.js'

export class MirrorUsers {
  readonly #graph: Graph
  readonly #source: BlockNode
  readonly #target: BlockNode
  /** Whose place the target takes. */
  readonly #replaced: BlockNode
  #filter: TopFilter | undefined
  /** They wait at the filter. */
  #hold: Disposable | undefined
  /** Nobody uses the source itself. */
  #quiet: Disposable | undefined
  /** Nodes above the source, and above what is replaced, whose requests are held up too. */
  #above: Held[] = []

  constructor(graph: Graph, source: BlockNode, target: BlockNode, replaced: BlockNode) {
    this.#graph = graph
    this.#source = source
    this.#target = target
    this.#replaced = replaced
  }

  /** From now on they come through this filter. */
  comeThrough(filter: TopFilter): void {
    this.#filter = filter
  }

  /** They wait at the filter, and nodes above the source come to rest; what they have changed can still be copied. */
  async holdAbove(how: HoldHow): Promise<void> {
    this.#hold = await this.#filter?.node.drain(how.signal)
    await this.#holdAbove(this.#source, how)
  }

  /** Nobody uses the source any more. */
  async holdAll(how: HoldHow): Promise<void> {
    this.#quiet = await this.#source.drain(how.signal)
    if (this.held && this.#replaced !== this.#source) await this.#holdAbove(this.#replaced, how)
  }

  /** They wait: nobody has let them go. */
  get held(): boolean {
    return this.#hold !== undefined
  }

  async #holdAbove(node: BlockNode, { moving, signal }: HoldHow): Promise<void> {
    const filter = this.#filter === undefined ? [] : [this.#filter.node]
    const how = { moving: moving && node === this.#replaced, ...(signal !== undefined && { signal }) }
    this.#above.push(await this.#graph.surgery.hold(node, filter, this.#target, how))
  }

  release(): void {
    this.#quiet?.[Symbol.dispose]()
    this.#quiet = undefined
    for (const held of this.#above.splice(0)) held[Symbol.dispose]()
    this.#hold?.[Symbol.dispose]()
    this.#hold = undefined
  }

  /**
   * While they are held: the target takes the place of what is replaced.
   * @param ending    the job's claims
   * @param underlay  what is replaced becomes the target's backing file
   * @throws CommandError when somebody has come who cannot be moved; they stay where they are then
   */
  async move(ending: readonly Claim[], underlay: boolean): Promise<void> {
    if (this.#filter === undefined) return
    const held = new Set(this.#above.flatMap(({ nodes }) => [...nodes]))
    const how = { held, ending, underlay }
    await this.#graph.surgery.pivot(this.#filter, this.#replaced, this.#target, how)
  }
}
