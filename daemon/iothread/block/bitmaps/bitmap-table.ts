// SPDX-License-Identifier: Apache-2.0
// The bitmap table: what commands, jobs and exports do with the named bitmaps of a graph's nodes. Part of the graph.
// Actions are done all or none, in one step between awaits.

import { createHash } from 'node:crypto'
import { CommandError } from '../../../errors.js'
import type { BitmapAction, BitmapContent, MergeSource } from '../../messages-bitmaps.js'
import type { DirtyBitmap } from '../dirty-bitmap.js'
import type { BlockNode } from '../node.js'
import type { NodeRecord, Records } from '../records.js'
import { BitmapUse } from './bitmap-use.js'
import { type BitmapChange, bitmapOf, type NamedBitmap } from './named-bitmap.js'

const MIN_GRANULARITY = 512
/** By default a bit stands for a cluster of the image, within these bounds. */
const [LEAST_DEFAULT, MOST_DEFAULT] = [4096, 65536]

export class BitmapTable {
  readonly #records: Records
  readonly #changed: (records: readonly NodeRecord[]) => void

  /** @param changed  told of nodes whose bitmaps are not as they were reported */
  constructor(records: Records, changed: (records: readonly NodeRecord[]) => void) {
    this.#records = records
    this.#changed = changed
  }

  /** @throws CommandError for the first that cannot be done; nothing is changed then */
  async change(actions: readonly BitmapAction[]): Promise<void> {
    const changes: BitmapChange[] = []
    try {
      for (const action of actions) changes.push(this.do(action))
    } catch (error) {
      for (const change of changes.reverse()) change.undo()
      throw error
    }
    for (const change of changes) change.keep()
    this.#report(actions.map(({ node }) => node))
  }

  /** Does one action; between awaits. @throws CommandError, and nothing is changed then */
  do(action: BitmapAction): BitmapChange {
    switch (action.kind) {
      case 'add':
        return this.#add(action)
      case 'remove': {
        const { bitmaps } = this.#lookUp(action.node)
        const bitmap = bitmaps.get(action.name)
        bitmaps.checkUsable(bitmap, 'inconsistent')
        return bitmaps.remove(bitmap)
      }
      case 'clear':
        return this.usable(action.node, action.name).clear()
      case 'enable':
      case 'disable':
        return this.usable(action.node, action.name).record(action.kind === 'enable')
      case 'merge':
        return this.#merge(action)
      default:
        return action satisfies never
    }
  }

  /**
   * A bitmap that nobody uses and whose content is known.
   * @param reading  its content is not to be changed
   * @throws CommandError
   */
  usable(node: string, name: string, reading = false): NamedBitmap {
    const { bitmaps } = this.#lookUp(node)
    const bitmap = bitmaps.get(name)
    if (reading) bitmaps.checkUsable(bitmap, 'readOnly')
    else bitmaps.checkUsable(bitmap)
    return bitmap
  }

  content(node: string, name: string): BitmapContent {
    return this.usable(node, name, true).content()
  }

  /** As the peer computes it: over words of 64 bits, of which there is at least one. */
  sha256(node: string, name: string): string {
    const { bits } = this.#lookUp(node).bitmaps.get(name)
    const bytes = new Uint8Array(8 * Math.max(1, Math.ceil(bits.chunks / 64)))
    bits.pack(0, bytes)
    return createHash('sha256').update(bytes).digest('hex')
  }

  /**
   * Gives a bitmap into the hands of a job or an export. Whoever asks has looked it up in `node.bitmaps`.
   * @param reading  its content is not going to be changed: for 'never', and for exports
   * @throws CommandError when it cannot be used
   */
  async take(node: BlockNode, bitmap: NamedBitmap, reading: boolean): Promise<BitmapUse> {
    if (reading) node.bitmaps.checkUsable(bitmap, 'readOnly')
    else node.bitmaps.checkUsable(bitmap)
    const use = new BitmapUse(bitmap, node.bitmaps, async () => this.#report([node.name]))
    this.#report([node.name])
    return use
  }

  #add(action: Extract<BitmapAction, { kind: 'add' }>): BitmapChange {
    const { name, granularity, persistent, recording } = action
    const { node } = this.#records.get(action.node)
    if (granularity !== undefined && (granularity < MIN_GRANULARITY || !isPowerOfTwo(granularity)))
      throw new CommandError(`Granularity must be power of 2 and at least ${MIN_GRANULARITY}`)
    if (persistent) throw new CommandError(`Can't make bitmap '${name}' persistent in '${action.node}'`)
    const chosen = granularity ?? this.#defaultGranularity(node)
    return node.bitmaps.add({ name, granularity: chosen, persistent, recording })
  }

  #merge({ node, name, sources }: Extract<BitmapAction, { kind: 'merge' }>): BitmapChange {
    this.#lookUp(node).bitmaps.get(name)
    const from = sources.map((source) => this.#source(source))
    return this.usable(node, name).merge(from)
  }

  #source(source: MergeSource): DirtyBitmap {
    return 'bits' in source ? bitmapOf(source) : this.usable(source.node, source.name, true).bits
  }

  #defaultGranularity(node: BlockNode): number {
    const cluster = this.#records.format(node)?.node.driver.format?.().clusterSize ?? MOST_DEFAULT
    return Math.min(MOST_DEFAULT, Math.max(LEAST_DEFAULT, cluster))
  }

  #lookUp(name: string): BlockNode {
    const record = this.#records.find(name)
    if (record === undefined || record.closing) throw new CommandError(`Node '${name}' not found`)
    return record.node
  }

  #report(nodes: readonly string[]): void {
    this.#changed([...new Set(nodes)].flatMap((name) => this.#records.find(name) ?? []))
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value))
}
