// SPDX-License-Identifier: Apache-2.0
// The images of a worker without the worker: one ticket on a file, connections to it, and a clock that the test moves.

import type { Test } from 'tap'
import type { Graph } from '../../../daemon/iothread/block/graph.js'
import { ImageTable } from '../../../daemon/iothread/exports/images/image-table.js'
import { Turns } from '../../../daemon/iothread/exports/images/turns.js'
import { Lanes } from '../../../daemon/iothread/exports/lanes.js'
import { PiecePool } from '../../../daemon/iothread/exports/piece-pool.js'
import type { ImageReport, ImageSpec } from '../../../daemon/iothread/messages-images.js'
import type { IoEngine } from '../../../native/types.js'
import { FakeClock } from '../fake-clock.js'
import { testGraph } from '../graph.js'
import { type Client, socketPair } from '../http-pair.js'
import { MiB } from '../scratch.js'

export interface TestTable {
  readonly graph: Graph
  readonly clock: FakeClock
  readonly table: ImageTable
  readonly engine: IoEngine
  readonly pool: PiecePool
  readonly checksums: Turns
  readonly reports: ImageReport[]
  /** Its number is how many were connected before. */
  connect(text: string): Promise<Client>
}

const SPEC: ImageSpec = {
  ...{ key: 1, id: 't', node: 'disk', size: MiB, ops: ['read', 'write'], sparse: true, own: true },
  ...{ timeout: 300, expires: Number.POSITIVE_INFINITY, inactivityTimeout: 60, filename: undefined },
  unixSocket: undefined,
}

/** @param slots  memory of all connections, MiB */
export async function imageTable(
  t: Test,
  path: string,
  slots = 16,
  more: Partial<ImageSpec> = {},
): Promise<TestTable> {
  const { graph, engine, add } = testGraph(t)
  await add({ driver: 'file', 'node-name': 'disk', filename: path })
  const reports: ImageReport[] = []
  const clock = new FakeClock()
  const [pool, checksums] = [new PiecePool(engine, slots), new Turns(4)]
  const table = new ImageTable({
    ...{ graph, engine, clock, pool, checksums, lanes: new Lanes(engine) },
    report: (report) => reports.push(report),
    log: () => undefined,
    came: () => undefined,
    left: () => undefined,
    keepMemory: () => ({ [Symbol.dispose]: () => undefined }),
  })
  t.teardown(() => table.close())
  await table.handlers['image-add']({ ...SPEC, ...more })
  let connections = 0
  const connect = async (text: string) => {
    const { fd, client } = socketPair(t)
    table.handlers['image-connect']({ key: 1, connection: connections++, fd, rest: new Uint8Array() })
    if (text !== '') await client.send(text)
    return client
  }
  return { graph, clock, table, engine, pool, checksums, reports, connect }
}
