// SPDX-License-Identifier: Apache-2.0
// The exports of a worker by id: each keeps its node in use until it is closed. Used by the worker's root object.

import { closeDescriptor } from '../../../native/descriptors.js'
import type { IoEngine } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { Graph } from '../block/graph.js'
import type { Report, Requests, ServedFacts } from '../messages.js'
import { NbdExport } from './nbd/export.js'
import { Lanes } from './nbd/lane.js'
import { PiecePool } from './piece-pool.js'

/** Slots of the engine that clients of exports may fill. The rest is for jobs and formats. */
const MOST_SLOTS = 96

export interface ExportEvents {
  report(report: Report): void
  /** There is a client. */
  came(): void
  /** A client has gone; the main thread was told. */
  left(): void
}

export class ExportTable {
  readonly #graph: Graph
  readonly #pool: PiecePool
  readonly #lanes: Lanes
  readonly #events: ExportEvents
  readonly #exports = new Map<string, NbdExport>()
  #opening = 0

  constructor(engine: IoEngine, graph: Graph, events: ExportEvents) {
    this.#graph = graph
    this.#pool = new PiecePool(engine, MOST_SLOTS)
    this.#lanes = new Lanes(engine)
    this.#events = events
  }

  get size(): number {
    return this.#exports.size
  }
  get clients(): number {
    return [...this.#exports.values()].reduce((sum, { clients }) => sum + clients, 0)
  }

  readonly handlers = {
    'export-add': async (spec: Requests['export-add']['args']) => {
      const ended = (connection: number, why: string | undefined) => {
        this.#events.report({
          kind: 'export-left',
          id: spec.id,
          connection,
          ...(why !== undefined && { why }),
        })
        this.#events.left()
      }
      const moved = (node: string, facts: ServedFacts) =>
        this.#events.report({ kind: 'export-moved', id: spec.id, node, facts })
      if (!this.#pool.keep()) throw new CommandError('all memory for requests is in use by jobs')
      this.#opening++
      try {
        const added = await NbdExport.open(
          spec,
          this.#graph,
          { pool: this.#pool, lanes: this.#lanes },
          ended,
          moved,
        )
        this.#exports.set(spec.id, added)
        return added.facts
      } finally {
        this.#opening--
        this.#releasePool()
      }
    },
    'export-del': async ({ id }: Requests['export-del']['args']) => {
      const found = this.#find(id)
      await found.close()
      this.#exports.delete(id)
      this.#releasePool()
      return null
    },
    'export-connect': ({ id, connection, fd, agreed, rest }: Requests['export-connect']['args']) => {
      const found = this.#exports.get(id)
      if (found === undefined) closeDescriptor(fd)
      this.#find(id).connect(connection, fd, agreed, rest)
      this.#events.came()
      return null
    },
  }

  /** Ends every client and gives the nodes back. */
  async close(): Promise<void> {
    const exports = [...this.#exports.values()]
    await Promise.all(exports.map((each) => each.close()))
    this.#exports.clear()
    this.#releasePool()
  }

  #releasePool(): void {
    if (this.#exports.size === 0 && this.#opening === 0) this.#pool.release()
  }

  #find(id: string): NbdExport {
    const found = this.#exports.get(id)
    if (found === undefined) throw new CommandError(`Export '${id}' is not found`)
    return found
  }
}
