// SPDX-License-Identifier: Apache-2.0
// Filters that jobs put above nodes: whoever claimed the node below uses the filter while it is there. Part of the graph.
//
// A filter is where users are made to wait: who drains it stops them, and can still use the node below himself.

import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../messages.js'
import type { BlockDriver } from './driver.js'
import { type ChangeGuard, MirrorTop } from './drivers/mirror-top.js'
import { type PassingName, PassingTop } from './drivers/passing-top.js'
import type { ZeroScan } from './node.js'
import { BlockNode } from './node.js'
import type { NodeOptions } from './options.js'
import type { NodeRecord, Records } from './records.js'

/** What the job behind a filter knows of its dirty bitmaps. */
export type BitmapFacts = () => readonly { granularity: number; count: number }[]

/** What a job puts above a node. */
export type TopFilterKind =
  /** guard: is given the changes that come through the filter. */
  { readonly driver: 'mirror_top'; readonly guard?: ChangeGuard } | { readonly driver: PassingName }

export interface TopFilter {
  readonly node: BlockNode
  readonly below: BlockNode
  /** Requests that wait in the filter go to another node from now on; call it in a drained section of the filter. */
  redirect(to: BlockNode): void
  /** The same, and users of that node wait in the filter from now on, instead of those of the node below until now. */
  moveTo(to: BlockNode): void
  /** A second call does nothing. */
  remove(): void
}

export class TopFilters {
  readonly #records: Records
  readonly #isZero: ZeroScan
  readonly #added: (record: NodeRecord) => void
  readonly #gone: (name: string) => void
  /** By the node below. */
  readonly #above = new Map<BlockNode, BlockNode>()

  constructor(
    records: Records,
    isZero: ZeroScan,
    added: (record: NodeRecord) => void,
    gone: (name: string) => void,
  ) {
    this.#records = records
    this.#isZero = isZero
    this.#added = added
    this.#gone = gone
  }

  /** The filter above a node, or the node. */
  top(node: BlockNode): BlockNode {
    return this.#above.get(node) ?? node
  }

  /** @throws CommandError when there is one above the node already */
  insert(name: string, below: BlockNode, bitmap: BitmapFacts, kind: TopFilterKind): TopFilter {
    const other = this.#above.get(below)
    if (other !== undefined)
      throw new CommandError(`Node '${below.name}' is busy: node '${other.name}' stands above it`)
    const spec: NodeSpec = { driver: kind.driver, 'node-name': name, file: below.name }
    // What users ask of the filter is the node's to grant or ignore.
    const options: NodeOptions = { ...below.options, discard: 'unmap', detectZeroes: 'off' }
    const node = new BlockNode(name, driverOf(kind, below), options, this.#isZero)
    const record: NodeRecord = {
      node,
      children: [{ role: 'file', node: below, inline: false }],
      spec,
      facts: undefined,
      bitmap,
      sent: undefined,
      closing: false,
    }
    this.#records.add(record)
    this.#above.set(below, node)
    this.#added(record)
    let standsOn = below
    const leave = () => {
      if (this.#above.get(standsOn) === node) this.#above.delete(standsOn)
    }
    const redirect = (to: BlockNode) => node.swap(new MirrorTop(to), { ...options, readOnly: to.readOnly })
    return {
      node,
      below,
      redirect,
      moveTo: (to) => {
        leave()
        standsOn = to
        this.#above.set(to, node)
        redirect(to)
      },
      remove: () => {
        if (this.#records.find(name) !== record) return
        this.#records.delete(name)
        leave()
        this.#gone(name)
      },
    }
  }
}

function driverOf(kind: TopFilterKind, below: BlockNode): BlockDriver {
  return kind.driver === 'mirror_top' ? new MirrorTop(below, kind.guard) : new PassingTop(below, kind.driver)
}
