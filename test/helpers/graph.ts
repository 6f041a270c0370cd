// SPDX-License-Identifier: Apache-2.0
// A graph over a real engine for one test: records reports and log lines, and is closed when the test ends.

import type { Test } from 'tap'
import { Graph } from '../../daemon/iothread/block/graph.js'
import type { BlockNode } from '../../daemon/iothread/block/node.js'
import type { NodeReport, NodeSpec } from '../../daemon/iothread/messages.js'
import { createEngine } from '../../native/engine.js'
import type { EngineKind, IoEngine } from '../../native/types.js'

export interface TestGraph {
  readonly graph: Graph
  readonly engine: IoEngine
  /** The last report of every node that is there. */
  readonly reports: Map<string, NodeReport>
  readonly log: string[]
  add(spec: NodeSpec): Promise<BlockNode>
  /** Writes bytes through a slot of the engine. */
  write(node: BlockNode, offset: number, bytes: Uint8Array): Promise<void>
  read(node: BlockNode, offset: number, length: number): Promise<Uint8Array>
}

export function testGraph(t: Test, aio: EngineKind = 'threads'): TestGraph {
  const engine = createEngine({ aio, slotSize: 1 << 20, maxSlots: 32 })
  const reports = new Map<string, NodeReport>()
  const log: string[] = []
  const graph = new Graph({
    engine,
    log: (level, fields, text) => log.push(`${level} ${String(fields.node)}: ${text}`),
    rearranged: () => undefined,
    corrupted: ({ node, text }) => log.push(`corrupted ${node}: ${text}`),
    changed: (nodes, gone) => {
      for (const report of nodes) reports.set(report.name, report)
      for (const name of gone) reports.delete(name)
    },
  })
  t.teardown(async () => {
    await graph.close()
    await engine.shutdown(5000)
  })
  const slot = engine.takeSlots(1)[0]!
  let turn: Promise<unknown> = Promise.resolve()
  /** One transfer at a time uses the slot. */
  const alone = <T>(work: () => Promise<T>): Promise<T> => {
    const result = turn.then(work)
    turn = result.catch(() => undefined)
    return result
  }
  return {
    graph,
    engine,
    reports,
    log,
    async add(spec) {
      await graph.add(spec)
      return graph.node(spec['node-name'])
    },
    write: (node, offset, bytes) =>
      alone(() => {
        engine.slotBytes(slot).set(bytes)
        return node.write(offset, { slot, offset: 0, length: bytes.length })
      }),
    read: (node, offset, length) =>
      alone(async () => {
        engine.slotBytes(slot).fill(0xee, 0, length)
        await node.read(offset, { slot, offset: 0, length })
        return engine.slotBytes(slot).slice(0, length)
      }),
  }
}

/** Small, fast, good enough (mulberry32); the seed is printed by whoever uses it. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = state
    x = Math.imul(x ^ (x >>> 15), x | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

/** A new seed, or the one in SEED to repeat a run. */
export function newSeed(): number {
  return Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
}

/** Why an engine cannot be had here, for skipping; false when it can. */
export function refused(aio: EngineKind): string | false {
  try {
    void createEngine({ aio }).shutdown(0)
    return false
  } catch (error) {
    return String(error)
  }
}
