// SPDX-License-Identifier: Apache-2.0
// The exports of a worker by id: each keeps its node in use until it is closed. Used by the worker's root object.

import { closeDescriptor } from '../../../native/descriptors.js'
import type { IoEngine } from '../../../native/types.js'
import { systemClock } from '../../common/clock.js'
import { CommandError } from '../../errors.js'
import type { Graph } from '../block/graph.js'
import type { Report, Requests, ServedFacts } from '../messages.js'
import { ImageTable } from './images/image-table.js'
import { Turns } from './images/turns.js'
import { Lanes } from './lanes.js'
import { NbdExport } from './nbd/export.js'
import { PiecePool } from './piece-pool.js'

/** Slots of the engine that clients of exports may fill. The rest is for jobs and formats. */
const MOST_SLOTS = 96
/** Each has its lanes of blocks, so few at once keep all processors busy. */
const MOST_CHECKSUMS = 4

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
  readonly #memory = new Map<NbdExport, Disposable>()
  readonly #images: ImageTable
  /** Who needs memory of the pool. */
  #users = 0

  constructor(engine: IoEngine, graph: Graph, events: ExportEvents) {
    this.#graph = graph
    this.#pool = new PiecePool(engine, MOST_SLOTS)
    this.#lanes = new Lanes(engine)
    this.#events = events
    this.#images = new ImageTable({
      graph,
      engine,
      pool: this.#pool,
      clock: systemClock,
      lanes: this.#lanes,
      checksums: new Turns(MOST_CHECKSUMS),
      report: (report) => events.report(report),
      log: (level, fields, text) => events.report({ kind: 'log', level, fields, text }),
      came: () => events.came(),
      left: () => events.left(),
      keepMemory: () => this.#keepMemory(),
    })
  }

  get size(): number {
    return this.#exports.size + this.#images.size
  }
  get clients(): number {
    return [...this.#exports.values()].reduce((sum, { clients }) => sum + clients, this.#images.clients)
  }

  get handlers() {
    return { ...this.#own, ...this.#images.handlers }
  }

  readonly #own = {
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
      const memory = this.#keepMemory()
      try {
        const added = await NbdExport.open(
          spec,
          this.#graph,
          { pool: this.#pool, lanes: this.#lanes, guests: this.#graph.guests },
          ended,
          moved,
        )
        this.#exports.set(spec.id, added)
        this.#memory.set(added, memory)
        return added.facts
      } catch (error) {
        memory[Symbol.dispose]()
        throw error
      }
    },
    'export-del': async ({ id }: Requests['export-del']['args']) => {
      const found = this.#find(id)
      await found.close()
      this.#graph.reportBitmaps()
      this.#exports.delete(id)
      this.#forget(found)
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
    await Promise.all([...exports.map((each) => each.close()), this.#images.close()])
    this.#exports.clear()
    for (const each of exports) this.#forget(each)
  }

  #forget(found: NbdExport): void {
    this.#memory.get(found)?.[Symbol.dispose]()
    this.#memory.delete(found)
  }

  /** Until it is disposed some memory is kept for clients. @throws CommandError when there is none */
  #keepMemory(): Disposable {
    if (!this.#pool.keep()) throw new CommandError('all memory for requests is in use by jobs')
    this.#users++
    let kept = true
    return {
      [Symbol.dispose]: () => {
        if (!kept) return
        kept = false
        if (--this.#users === 0) this.#pool.release()
      },
    }
  }

  #find(id: string): NbdExport {
    const found = this.#exports.get(id)
    if (found === undefined) throw new CommandError(`Export '${id}' is not found`)
    return found
  }
}
