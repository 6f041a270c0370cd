// SPDX-License-Identifier: Apache-2.0
// The command handlers over scripted workers that open and close nodes as they are told: for orderings between
// commands, workers and events. What a worker really does is tested with real ones elsewhere.

import { pino } from 'pino'
import { Descriptors } from '../../../daemon/control/descriptors.js'
import { type CommandSet, createHandlers } from '../../../daemon/control/handlers/index.js'
import { SPARES } from '../../../daemon/control/spare-workers.js'
import { startImagesWorker } from '../../../daemon/images/handle.js'
import type { NodeDefinition, NodeReport, NodeSpec, RequestName } from '../../../daemon/iothread/messages.js'
import { memoryWorkerStarter } from '../../../daemon/memory/handle.js'
import { startNbdWorker } from '../../../daemon/nbd/handle.js'
import type { Arguments, CommandName, Returns } from '../../../protocol/schema/index.js'
import { progress, ScriptedWorker } from './scripted-worker.js'

export const silent = pino({ level: 'silent' })

export const noStats = {
  ...{ reads: 0, readBytes: 0, writes: 0, writeBytes: 0, zeroes: 0, zeroBytes: 0, discards: 0 },
  ...{ discardBytes: 0, flushes: 0, failedReads: 0, failedWrites: 0, failedFlushes: 0, writeHighest: 0 },
}

export interface ScriptedDaemon extends CommandSet {
  readonly workers: ScriptedWorker[]
  readonly descriptors: Descriptors
  /** Events as `NAME` or `S:status`, and whatever the test adds. */
  readonly seen: string[]
  /** What images name. */
  resolve: (spec: NodeSpec) => NodeDefinition
  /** Decides in a worker before a request is answered; what it throws is the answer. */
  script: (worker: ScriptedWorker, name: RequestName, args: unknown) => void
  /** Requests the test answers itself. */
  held: (worker: ScriptedWorker, name: RequestName, args: unknown) => boolean
  run<N extends CommandName>(name: N, args: Arguments<N>): Promise<Returns<N>>
  /** Workers that were not ended, as names of the nodes in each. */
  placement(): string[]
}

export function scriptedDaemon(): ScriptedDaemon {
  const workers: ScriptedWorker[] = []
  const seen: string[] = []
  const startWorker = (name: string) => {
    const worker = new ScriptedWorker(name)
    worker.before = (name, args) => {
      daemon.script(worker, name, args)
      obey(worker, name, args)
    }
    worker.resolve = (spec) => daemon.resolve(spec)
    worker.held = (name, args) => daemon.held(worker, name, args)
    workers.push(worker)
    return worker
  }
  const events = {
    emit: (name: string, data: object) => {
      const status = 'status' in data ? `S:${data.status}` : name.replace('BLOCK_JOB_', '')
      seen.push(status)
    },
  }
  const descriptors = new Descriptors()
  const daemon: ScriptedDaemon = {
    descriptors,
    ...createHandlers({
      startWorker,
      startMemory: memoryWorkerStarter({ aio: 'threads' }),
      startNbd: startNbdWorker,
      startImages: startImagesWorker,
      events,
      descriptors,
      log: silent,
      spares: { ...SPARES, ahead: 0, fromStart: 0 },
    }),
    workers,
    seen,
    resolve: (spec) => spec,
    script: () => {},
    held: () => false,
    run: async (name, args) => {
      const handler = daemon.handlers[name] as (args: unknown) => unknown
      return (await handler(args)) as never
    },
    placement: () =>
      workers
        .filter((worker) => !worker.terminated)
        .map((worker) => [...worker.nodes.keys()].sort().join(' ')),
  }
  return daemon
}

/** What every worker does: opens, closes, starts. */
function obey(worker: ScriptedWorker, name: RequestName, args: unknown): void {
  if (name === 'node-add') {
    const { spec } = args as { spec: NodeSpec }
    const nodes = reports(spec)
    for (const node of nodes) worker.nodes.set(node.name, spec)
    worker.say({ kind: 'nodes', nodes, gone: [] })
  } else if (name === 'node-del') {
    const { node } = args as { node: string }
    const spec = worker.nodes.get(node)
    if (spec === undefined) throw new Error(`no node ${node}`)
    const gone = reports(spec).map((report) => report.name)
    for (const name of gone) worker.nodes.delete(name)
    worker.say({ kind: 'nodes', nodes: [], gone })
  } else if (name === 'job-start') {
    const { id } = args as { id: string }
    worker.say({ kind: 'job-running', id, progress: progress(0, 64) })
  }
}

/** What a report says of a node besides its names. */
export const scriptedReport: Omit<NodeReport, 'name' | 'driver' | 'filename' | 'children'> = {
  ...{ readOnly: false, size: 64, cache: { direct: false, noFlush: false }, detectZeroes: 'off' },
  ...{ stats: noStats, dirtyBitmaps: [] },
}

function reports(spec: NodeSpec): NodeReport[] {
  const inline = [spec.file, spec['data-file'], spec.backing].filter(
    (child) => typeof child === 'object' && child !== null,
  )
  const below = inline.flatMap((child) => reports(child as NodeSpec))
  const filename = String(spec.filename ?? below[0]?.filename ?? '')
  return [
    ...below,
    {
      name: spec['node-name'],
      driver: spec.driver,
      children: below.length > 0 ? { file: below.at(-1)?.name ?? '' } : {},
      filename,
      ...scriptedReport,
      readOnly: spec['read-only'] === true,
      ...(spec.driver === 'file' && { identity: `1:${filename}` }),
    },
  ]
}
