// SPDX-License-Identifier: Apache-2.0
// The nodes of a graph and their edges. Shared by the parts of the graph (opening, reopening, claims, reports).
// Changed only between awaits.

import type { FileFacts } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { NodeReport, NodeSpec } from '../messages.js'
import type { BlockNode } from './node.js'

export interface Child {
  /** Option that names it: 'file' or 'image'. */
  readonly role: string
  readonly node: BlockNode
  /** Defined inside its parent: it is closed with it. */
  readonly inline: boolean
}

export interface NodeRecord {
  readonly node: BlockNode
  readonly child: Child | undefined
  /** As the user wrote it, without what was inherited. */
  spec: NodeSpec
  /** Facts of the file behind a leaf, as last asked. */
  facts: FileFacts | undefined
  /** What the job behind a filter node knows of its dirty bitmap. */
  readonly bitmap: (() => { granularity: number; count: number } | undefined) | undefined
  /** The report as it was last sent. */
  sent: NodeReport | undefined
  /** Being removed: its name is taken still, but nobody new may use it. */
  closing: boolean
}

export class Records {
  /** In the order the nodes came to be: a child before its parent. */
  readonly #records = new Map<string, NodeRecord>()

  add(record: NodeRecord): void {
    this.#records.set(record.node.name, record)
  }

  delete(name: string): void {
    this.#records.delete(name)
  }

  find(name: string): NodeRecord | undefined {
    return this.#records.get(name)
  }

  /** @throws CommandError when there is no such node, or it is being removed */
  get(name: string): NodeRecord {
    const record = this.#records.get(name)
    if (record === undefined || record.closing)
      throw new CommandError(`Cannot find device='${name}' nor node-name='${name}'`)
    return record
  }

  /** The record's node is there to stay: not removed, nor being removed. */
  holds(record: NodeRecord): boolean {
    return this.#records.get(record.node.name) === record && !record.closing
  }

  all(): NodeRecord[] {
    return [...this.#records.values()]
  }

  parents(node: BlockNode): NodeRecord[] {
    return this.all().filter((record) => record.child?.node === node)
  }

  /** The node and what is below it, top first. */
  chain(node: BlockNode): NodeRecord[] {
    const chain: NodeRecord[] = []
    let record = this.#records.get(node.name)
    while (record !== undefined) {
      chain.push(record)
      record = record.child === undefined ? undefined : this.#records.get(record.child.node.name)
    }
    return chain
  }

  leaf(node: BlockNode): BlockNode {
    return this.chain(node).at(-1)?.node ?? node
  }
}
