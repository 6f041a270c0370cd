// SPDX-License-Identifier: Apache-2.0
// A node that is served over NBD: its claim, and the clients that use it. Made by the worker's table of exports.

import type { Agreed } from '../../../../protocol/nbd/agreed.js'
import { ALLOCATION, ALLOCATION_DEPTH, DIRTY_BITMAP } from '../../../../protocol/nbd/contexts.js'
import { giveBack } from '../../../common/give-back.js'
import { CommandError } from '../../../errors.js'
import type { BitmapUse } from '../../block/bitmaps/bitmap-use.js'
import type { Claim } from '../../block/claims.js'
import { type Permissions, without } from '../../block/driver.js'
import type { Graph } from '../../block/graph.js'
import type { Guest, Guests } from '../../block/guests.js'
import type { BlockNode } from '../../block/node.js'
import type { ExportSpec, ServedFacts } from '../../messages.js'
import type { Lanes } from '../lanes.js'
import type { PiecePool } from '../piece-pool.js'
import { Connection } from './connection.js'
import type { ServedNode } from './serving.js'
import { allocation, allocationDepth, dirtyIn, type StatusSource } from './status.js'

/** Told of every client that has gone. @param why  undefined: the client ended it, or it was asked for */
export type ConnectionEnded = (connection: number, why: string | undefined) => void

/** Told that a node took the place of the one that was served. */
export type ExportMoved = (node: string, facts: ServedFacts) => void

/** What the exports of a worker share. */
export interface ExportMeans {
  readonly pool: PiecePool
  readonly lanes: Lanes
  readonly guests: Guests
}

/** Smallest unit clients are told to prefer, bytes: what the page cache and most disks work in. */
const PREFERRED = 4096

export class NbdExport implements ServedNode {
  readonly sources: readonly StatusSource[]
  readonly writethrough: boolean
  readonly #claim: Claim
  readonly #bitmaps: readonly BitmapUse[]
  readonly #contexts: readonly string[]
  readonly #pool: PiecePool
  readonly #lanes: Lanes
  readonly #guests: Guests
  readonly #guest: Guest
  readonly #ended: ConnectionEnded
  readonly #connections = new Map<number, Connection>()
  #quiet: (() => void) | undefined
  #closing: Promise<void> | undefined

  private constructor(
    spec: ExportSpec,
    claim: Claim,
    bitmaps: readonly BitmapUse[],
    { pool, lanes, guests }: ExportMeans,
    ended: ConnectionEnded,
  ) {
    this.#claim = claim
    this.#bitmaps = bitmaps
    this.#pool = pool
    this.#lanes = lanes
    this.#guests = guests
    this.#guest = guests.join()
    this.#ended = ended
    this.writethrough = spec.writethrough
    const contexts = contextsOf(spec, bitmaps)
    this.sources = [...contexts.values()]
    this.#contexts = [...contexts.keys()]
  }

  /** @throws CommandError when somebody else uses the node in a way that excludes it, or a bitmap cannot be used */
  static async open(
    spec: ExportSpec,
    graph: Graph,
    means: ExportMeans,
    ended: ConnectionEnded,
    moved: ExportMoved,
  ): Promise<NbdExport> {
    const node = graph.node(spec.node)
    await graph.freshen(spec.node)
    let contexts: readonly string[] = []
    const claim = await graph.claim(`export '${spec.id}'`, node, permissions(spec.writable), (to) =>
      moved(to.name, { blockSizes: blockSizesOf(to), contexts }),
    )
    const bitmaps: BitmapUse[] = []
    try {
      for (const bitmap of graph.bitmaps.forExport(node, spec.bitmaps ?? [], spec.writable))
        bitmaps.push(await graph.bitmaps.take(bitmap.node, bitmap.bitmap, true))
    } catch (error) {
      await giveBack([() => claim.release(), ...bitmaps.map((use) => () => use.release())], { error })
    }
    contexts = [...contextsOf(spec, bitmaps).keys()]
    return new NbdExport(spec, claim, bitmaps, means, ended)
  }

  get facts(): ServedFacts {
    return { blockSizes: blockSizesOf(this.node), contexts: this.#contexts }
  }

  get node(): BlockNode {
    return this.#claim.node
  }

  get clients(): number {
    return this.#connections.size
  }

  /** Begins to serve a client. @param fd  owned from now on */
  connect(connection: number, fd: number, agreed: Agreed, rest: Uint8Array): void {
    const ended = (why: string | undefined) => {
      this.#connections.delete(connection)
      if (this.#connections.size === 0) this.#quiet?.()
      this.#ended(connection, why)
    }
    let made: Connection
    try {
      const env = { node: this, pool: this.#pool, lanes: this.#lanes, guest: this.#guest, ended }
      made = new Connection(env, fd, agreed, rest)
    } catch (error) {
      throw new CommandError(`a client could not be served: ${(error as Error).message}`, 'GenericError', {
        cause: error,
      })
    }
    this.#connections.set(connection, made)
    made.start()
  }

  /** Ends what clients there are; resolves when nothing of theirs is under way any more. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    for (const connection of [...this.#connections.values()]) connection.close()
    if (this.#connections.size > 0)
      await new Promise<void>((resolve) => {
        this.#quiet = resolve
      })
    this.#guests.leave(this.#guest)
    await giveBack([() => this.#claim.release(), ...this.#bitmaps.map((use) => () => use.release())])
  }
}

function contextsOf(
  { allocationDepth: depth }: ExportSpec,
  bitmaps: readonly BitmapUse[],
): Map<string, StatusSource> {
  const contexts = new Map<string, StatusSource>([[ALLOCATION, allocation]])
  if (depth) contexts.set(ALLOCATION_DEPTH, allocationDepth)
  for (const use of bitmaps) contexts.set(DIRTY_BITMAP + use.bitmap.name, dirtyIn(use))
  return contexts
}

/** What is served is not to be made shorter by other programs, nor overwritten by a new image. */
function permissions(writable: boolean): Permissions {
  return { use: writable ? ['consistent read', 'write'] : ['consistent read'], share: without('resize') }
}

function blockSizesOf(node: BlockNode): ServedFacts['blockSizes'] {
  const { requestAlign, writeAlign } = node.driver.limits
  const minimum = Math.min(requestAlign, 64 * 1024)
  const preferred = Math.max(PREFERRED, minimum, Math.min(writeAlign ?? 0, 64 * 1024))
  return { minimum, preferred, maximumPayload: 32 * 1024 * 1024 }
}
