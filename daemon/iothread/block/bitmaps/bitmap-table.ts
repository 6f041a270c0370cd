// SPDX-License-Identifier: Apache-2.0
// The bitmap table: what commands, jobs and exports do with the named bitmaps of a graph's nodes. Part of the graph.
// Actions are done all or none, in one step between awaits. Around that step is what persistent bitmaps need: whoever
// looks at one or changes it has claimed its node, so that nobody else changes the image, and it is stored in the end.

import { createHash } from 'node:crypto'
import { isFilter } from '../../../common/filter-drivers.js'
import { type Failure, giveBack } from '../../../common/give-back.js'
import { CommandError } from '../../../errors.js'
import type {
  BitmapAction,
  BitmapContent,
  CarriedBitmap,
  ExportBitmap,
  MergeSource,
} from '../../messages-bitmaps.js'
import type { HeldBitmap } from '../../messages-transaction.js'
import type { Claims, Release } from '../claims.js'
import type { DirtyBitmap } from '../dirty-bitmap.js'
import { PERMISSIONS, type Permissions } from '../driver.js'
import type { BlockNode } from '../node.js'
import type { NodeRecord, Records } from '../records.js'
import { BitmapUse } from './bitmap-use.js'
import { type BitmapChange, bitmapOf, type NamedBitmap } from './named-bitmap.js'

const MIN_GRANULARITY = 512
/** By default a bit stands for a cluster of the image, within these bounds. */
const [LEAST_DEFAULT, MOST_DEFAULT] = [4096, 65536]

/** Whose claims they are, as conflicts name it. */
const USER = 'a dirty bitmap'
const LOOKS: Permissions = { use: ['consistent read'], share: PERMISSIONS }
/** What the image says of its disk stays the same. */
const CHANGES: Permissions = { use: ['write unchanged'], share: PERMISSIONS }

/** Persistent bitmaps that some actions are about, by node. */
type Persistent = Map<
  BlockNode,
  { changes: boolean; readonly held: Set<string>; readonly removed: Set<string> }
>

export class BitmapTable {
  readonly #records: Records
  readonly #claims: Claims
  readonly #changed: (records: readonly NodeRecord[]) => void

  /** @param changed  told of nodes whose bitmaps are not as they were reported */
  constructor(records: Records, claims: Claims, changed: (records: readonly NodeRecord[]) => void) {
    this.#records = records
    this.#claims = claims
    this.#changed = changed
  }

  /** @throws CommandError for the first that cannot be done; nothing is changed then */
  async change(actions: readonly BitmapAction[]): Promise<void> {
    const persistent = this.#rehearse(actions)
    const releases: Release[] = []
    let failure: Failure | undefined
    try {
      for (const [node, { changes, held }] of persistent) {
        releases.push(await this.#claims.claim(USER, node, changes ? CHANGES : LOOKS))
        for (const name of held) await node.withDriver(async (driver) => driver.bitmapStore?.hold(name))
      }
      await this.#perform(actions, persistent)
    } catch (error) {
      failure = { error }
    }
    await giveBack([() => this.#report(actions.map(({ node }) => node)), ...releases], failure)
  }

  /**
   * For whoever changes bitmaps in a drained section, where images cannot be asked: those that are stored are marked in use
   * there, and their nodes claimed, until what this returns is called.
   */
  async hold(bitmaps: readonly HeldBitmap[]): Promise<Release> {
    const releases: Release[] = []
    const report = () => this.#report(bitmaps.map(({ node }) => node))
    const release = (before?: Failure) => giveBack([report, ...releases.splice(0)], before)
    try {
      for (const { node: of, name, stored } of bitmaps) {
        const node = this.#records.find(of)?.node
        if (node === undefined || !(stored ?? node.bitmaps.find(name)?.persistent)) continue
        releases.push(await this.#claims.claim(USER, node, CHANGES))
        await node.withDriver(async (driver) => driver.bitmapStore?.hold(name))
      }
    } catch (error) {
      await release({ error })
    }
    return release
  }

  /** What was removed in a drained section is taken out of its image; before what hold() returned is called. */
  async removeStored(node: string, name: string): Promise<void> {
    const of = this.#records.find(node)?.node
    if (of === undefined || of.bitmaps.find(name)?.persistent === true) return
    await of.withDriver(async (driver) => driver.bitmapStore?.remove(name))
  }

  /** Does the actions, and takes out of their images what they remove; all of it or nothing. */
  async #perform(actions: readonly BitmapAction[], persistent: Persistent): Promise<void> {
    const changes = this.#doAll(actions)
    const all = [...persistent].flatMap(([node, { removed }]) => [...removed].map((name) => ({ node, name })))
    const hold = (node: BlockNode, name: string) =>
      node.withDriver(async (driver) => driver.bitmapStore?.hold(name))
    const gone: { node: BlockNode; name: string }[] = []
    try {
      for (const { node, name } of all) {
        await node.withDriver(async (driver) => driver.bitmapStore?.remove(name))
        gone.push({ node, name })
        // Another was added in its place.
        if (node.bitmaps.find(name)?.persistent === true) await hold(node, name)
      }
    } catch (error) {
      for (const change of changes.reverse()) change.undo()
      // What was taken out of its image before is stored again in the end.
      for (const { node, name } of gone) await hold(node, name).catch(() => undefined)
      throw error
    }
    for (const change of changes) change.keep()
  }

  #doAll(actions: readonly BitmapAction[]): BitmapChange[] {
    const changes: BitmapChange[] = []
    try {
      for (const action of actions) changes.push(this.do(action))
      return changes
    } catch (error) {
      for (const change of changes.reverse()) change.undo()
      throw error
    }
  }

  /**
   * Does the actions and undoes them: what is refused is refused before anything is touched.
   * @returns what persistent bitmaps they are about
   */
  #rehearse(actions: readonly BitmapAction[]): Persistent {
    const persistent: Persistent = new Map()
    const changes: BitmapChange[] = []
    try {
      for (const action of actions) {
        const { kind, name } = action
        const node = this.#records.find(action.node)?.node
        const before = node?.bitmaps.find(name)
        if (kind === 'merge') for (const source of action.sources) this.#note(persistent, source)
        changes.push(this.do(action))
        const bitmap = node?.bitmaps.find(name) ?? before
        if (node === undefined || bitmap?.persistent !== true) continue
        const noted = this.#noted(persistent, node)
        noted.changes = true
        noted[kind === 'remove' ? 'removed' : 'held'].add(name)
      }
    } finally {
      for (const change of changes.reverse()) change.undo()
    }
    return persistent
  }

  /** What a persistent source of a merge holds is looked at under a claim. */
  #note(persistent: Persistent, source: MergeSource): void {
    if ('bits' in source) return
    const node = this.#records.find(source.node)?.node
    if (node?.bitmaps.find(source.name)?.persistent === true) this.#noted(persistent, node)
  }

  #noted(persistent: Persistent, node: BlockNode) {
    const noted = persistent.get(node) ?? { changes: false, held: new Set(), removed: new Set() }
    persistent.set(node, noted)
    return noted
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

  /** @throws CommandError when one of theirs is in use here */
  carried(nodes: readonly string[]): CarriedBitmap[] {
    return nodes.flatMap((node) => {
      const { bitmaps } = this.#lookUp(node)
      for (const bitmap of bitmaps.all()) if (bitmap.busy) bitmaps.checkUsable(bitmap)
      return bitmaps
        .all()
        .filter(({ persistent }) => !persistent)
        .map((bitmap) => {
          return { node, name: bitmap.name, recording: bitmap.recording, content: bitmap.content() }
        })
    })
  }

  /**
   * Bitmaps that an export of a node is to show, each once.
   * @throws CommandError for one that is not there, or that a read-only export could not show as it stays
   */
  forExport(
    node: BlockNode,
    wanted: readonly ExportBitmap[],
    writable: boolean,
  ): { readonly node: BlockNode; readonly bitmap: NamedBitmap }[] {
    const found = new Map<NamedBitmap, BlockNode>()
    for (const each of wanted) {
      const at = typeof each === 'string' ? this.#below(node, each) : this.#lookUp(each.node)
      const name = typeof each === 'string' ? each : each.name
      if (at === undefined) throw new CommandError(`Bitmap '${name}' is not found`)
      const bitmap = at.bitmaps.get(name)
      if (typeof each === 'string' && !writable && !at.readOnly && bitmap.recording)
        throw new CommandError(`Enabled bitmap '${name}' incompatible with readonly export`)
      found.set(bitmap, at)
    }
    return [...found].map(([bitmap, at]) => ({ node: at, bitmap }))
  }

  /** The node, or the first below it through filters and backing files, that has such a bitmap. */
  #below(node: BlockNode, name: string): BlockNode | undefined {
    if (node.bitmaps.find(name) !== undefined) return node
    const { type, backing } = node.driver
    const filtered = isFilter(type) ? this.#records.find(node.name)?.children[0]?.node : undefined
    const below = backing ?? filtered
    return below && this.#below(below, name)
  }

  put(bitmaps: readonly CarriedBitmap[]): void {
    for (const { node, name, recording, content } of bitmaps)
      this.#lookUp(node).bitmaps.put(name, recording, bitmapOf(content))
    this.#report(bitmaps.map(({ node }) => node))
  }

  content(node: string, name: string): Promise<BitmapContent> {
    return this.#look(node, name, () => this.usable(node, name, true).content())
  }

  /** As the peer computes it: over words of 64 bits, of which there is at least one. */
  sha256(node: string, name: string): Promise<string> {
    return this.#look(node, name, ({ bits }) => {
      const bytes = new Uint8Array(8 * Math.max(1, Math.ceil(bits.chunks / 64)))
      bits.pack(0, bytes)
      return createHash('sha256').update(bytes).digest('hex')
    })
  }

  async #look<T>(name: string, bitmap: string, work: (bitmap: NamedBitmap) => T): Promise<T> {
    const node = this.#lookUp(name)
    const { persistent } = node.bitmaps.get(bitmap)
    const release = persistent ? await this.#claims.claim(USER, node, LOOKS) : undefined
    try {
      return work(node.bitmaps.get(bitmap))
    } finally {
      await release?.()
    }
  }

  /**
   * Gives a bitmap into the hands of a job or an export. Whoever asks has looked it up in `node.bitmaps`.
   * @param reading  its content is not going to be changed: for 'never', and for exports
   * @throws CommandError when it cannot be used
   */
  async take(node: BlockNode, { name, persistent }: NamedBitmap, reading: boolean): Promise<BitmapUse> {
    const find = () => this.usable(node.name, name, reading)
    find()
    const hold = async () => {
      if (persistent && !reading && node.driver.bitmapStore?.holds(name) !== true)
        await node.withDriver(async (driver) => driver.bitmapStore?.hold(name))
    }
    const release = await this.#claims.claim(USER, node, reading || !persistent ? LOOKS : CHANGES)
    try {
      await hold()
      const use = new BitmapUse(find(), node.bitmaps, async () => {
        try {
          await hold()
        } finally {
          await release()
          this.#report([node.name])
        }
      })
      this.#report([node.name])
      return use
    } catch (error) {
      await release()
      throw error
    }
  }

  #add(action: Extract<BitmapAction, { kind: 'add' }>): BitmapChange {
    const { name, granularity, persistent, recording } = action
    const { node } = this.#records.get(action.node)
    if (granularity !== undefined && (granularity < MIN_GRANULARITY || !isPowerOfTwo(granularity)))
      throw new CommandError(`Granularity must be power of 2 and at least ${MIN_GRANULARITY}`)
    const chosen = granularity ?? this.#defaultGranularity(node)
    if (persistent) checkStorable(node, name, chosen)
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

/** @throws CommandError when the image of the node cannot hold such a bitmap */
function checkStorable(node: BlockNode, name: string, granularity: number): void {
  if (node.bitmaps.find(name) !== undefined) throw new CommandError(`Bitmap already exists: ${name}`)
  const store = node.driver.bitmapStore
  if (store === undefined)
    throw new CommandError(`Can't store persistent bitmaps to ${node.name}: Operation not supported`)
  try {
    store.checkNew(name, granularity)
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    throw new CommandError(`Can't make bitmap '${name}' persistent in '${node.name}': ${error.message}`)
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value))
}
