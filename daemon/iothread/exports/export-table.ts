// SPDX-License-Identifier: Apache-2.0
// The exports of a worker by id: each keeps its node in use until it is closed. Used by the worker's root object.

import type { IoEngine } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { Graph } from '../block/graph.js'
import type { Report, Requests, ServedFacts } from '../messages.js'
import { NbdExport } from './nbd/export.js'
import { PiecePool } from './piece-pool.js'

/** Slots of the engine that clients of exports may fill. The rest is for jobs and formats. */
const MOST_SLOTS = 96

export class ExportTable {
  readonly #graph: Graph
  readonly #pool: PiecePool
  readonly #report: (report: Report) => void
  readonly #exports = new Map<string, NbdExport>()

  constructor(engine: IoEngine, graph: Graph, report: (report: Report) => void) {
    this.#graph = graph
    this.#pool = new PiecePool(engine, MOST_SLOTS)
    this.#report = report
  }

  get size(): number {
    return this.#exports.size
  }

  readonly handlers = {
    'export-add': async (spec: Requests['export-add']['args']) => {
      const ended = (connection: number, why: string | undefined) =>
        this.#report({ kind: 'export-left', id: spec.id, connection, ...(why !== undefined && { why }) })
      const moved = (node: string, facts: ServedFacts) =>
        this.#report({ kind: 'export-moved', id: spec.id, node, facts })
      const added = await NbdExport.open(spec, this.#graph, this.#pool, ended, moved)
      this.#exports.set(spec.id, added)
      return added.facts
    },
    'export-del': async ({ id }: Requests['export-del']['args']) => {
      const found = this.#find(id)
      await found.close()
      this.#exports.delete(id)
      return null
    },
    'export-connect': ({ id, connection, fd, agreed, rest }: Requests['export-connect']['args']) => {
      this.#find(id).connect(connection, fd, agreed, rest)
      return null
    },
  }

  /** Ends every client and gives the nodes back. */
  async close(): Promise<void> {
    const exports = [...this.#exports.values()]
    this.#exports.clear()
    await Promise.all(exports.map((each) => each.close()))
  }

  #find(id: string): NbdExport {
    const found = this.#exports.get(id)
    if (found === undefined) throw new CommandError(`Export '${id}' is not found`)
    return found
  }
}
