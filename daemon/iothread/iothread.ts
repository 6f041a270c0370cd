// SPDX-License-Identifier: Apache-2.0
// Root object of a disk's worker: one graph, its jobs, one engine. Takes the main thread's requests and answers each
// exactly once. The worker's entry makes one; tests make one in-process.
// Everything that can wait is awaited, so requests overlap: a job can be cancelled while a node is being opened.

import type { IoEngine } from '../../native/types.js'
import { atMost } from '../common/deadline.js'
import { toWire } from '../common/worker-messages.js'
import { Graph, type GraphLog } from './block/graph.js'
import { probeFormat } from './block/probe.js'
import { Buffers } from './copy/buffers.js'
import { ExportTable } from './exports/export-table.js'
import { BACKUP_USER, BackupJob, backupSourcePermissions } from './jobs/backup.js'
import { BenchJob } from './jobs/bench.js'
import type { JobBody, JobControl } from './jobs/body.js'
import { CheckJob } from './jobs/check.js'
import { CommitJob } from './jobs/commit.js'
import { CompareJob } from './jobs/compare.js'
import { CreateJob, checkImage, createImage } from './jobs/create.js'
import { JobTable, type PreparedJob } from './jobs/job-table.js'
import { MirrorJob } from './jobs/mirror.js'
import { MIRROR_USER, sourcePermissions } from './jobs/mirror-ends.js'
import { appendOverlay, emptyImage, nameBacking } from './jobs/overlay.js'
import { ResizeJob } from './jobs/resize.js'
import type { Policy } from './jobs/runner.js'
import { StreamJob } from './jobs/stream.js'
import type { FromWorker, JobSpec, Report, RequestName, Requests, ToWorker } from './messages.js'
import { mapNode } from './node-map.js'
import { type PrepareJob, Transactions } from './transactions.js'

/** Time between two looks at what the images occupy, milliseconds; only while a job runs or an export has clients. */
const REFRESH_MS = 1000

type Handlers = {
  [N in RequestName]: (args: Requests[N]['args']) => Promise<Requests[N]['reply']> | Requests[N]['reply']
}

export class Iothread {
  readonly #engine: IoEngine
  readonly #post: (message: FromWorker) => void
  readonly #graph: Graph
  readonly #buffers: Buffers
  readonly #jobs: JobTable
  readonly #exports: ExportTable
  readonly #transactions: Transactions
  readonly #handlers: Handlers
  /** Requests of the main thread not answered yet. */
  #unanswered = 0
  /** An operator had to be told of something, or there was a bug: the state of this worker is not to be trusted. */
  #failed = false
  #refresh: NodeJS.Timeout | undefined

  constructor(engine: IoEngine, post: (message: FromWorker) => void) {
    this.#engine = engine
    this.#post = post
    const log: GraphLog = (level, fields, text) => this.#report({ kind: 'log', level, fields, text })
    this.#graph = new Graph({
      engine,
      log,
      changed: (nodes, gone) => this.#report({ kind: 'nodes', nodes, gone }),
      rearranged: (report) => this.#report({ kind: 'graph', ...report }),
      corrupted: (report) => this.#report({ kind: 'image-corrupted', ...report }),
    })
    this.#buffers = new Buffers(engine)
    this.#jobs = new JobTable(
      (report) => {
        this.#report(report)
        // What the job made of its images is known soon after its end.
        if (report.kind === 'job-ended') this.#look()
      },
      () => this.#graph.oldest(),
    )
    this.#exports = new ExportTable(engine, this.#graph, {
      report: (report) => this.#report(report),
      came: () => this.#watch(),
      left: () => this.#look(),
    })
    const prepareJob: PrepareJob = async (id, spec) => {
      const { start, undo } = await this.#prepare(id, spec)
      return { start: () => start().then(() => this.#watch()), undo }
    }
    this.#transactions = new Transactions(this.#graph, prepareJob, log)
    this.#handlers = this.#makeHandlers()
  }

  /** Answers one request; never rejects. */
  async receive(message: ToWorker): Promise<void> {
    this.#unanswered++
    try {
      const handler = this.#handlers[message.name] as (args: unknown) => unknown
      this.#post({ reply: message.request, value: await handler(message.args) })
    } catch (error) {
      const wire = toWire(error)
      if (wire.kind === 'bug') this.#failed = true
      this.#post({ reply: message.request, error: wire })
    } finally {
      this.#unanswered--
    }
  }

  #report(report: Report): void {
    if (report.kind === 'log' && report.level === 'error') this.#failed = true
    this.#post({ report })
  }

  #makeHandlers(): Handlers {
    const graph = this.#graph
    return {
      'node-resolve': ({ spec }) => graph.resolve(spec),
      'node-add': async ({ spec }) => done(await graph.add(spec)),
      'node-del': async ({ node }) => done(await graph.remove(node)),
      'node-reopen': async ({ specs }) => done(await graph.reopen(specs)),
      'node-resize': async ({ node, size }) => done(await graph.resize(node, size)),
      'bitmaps-carried': ({ nodes }) => graph.bitmaps.carried(nodes),
      'bitmaps-put': ({ bitmaps }) => done(graph.bitmaps.put(bitmaps)),
      'bitmaps-change': async ({ actions }) => {
        await graph.bitmaps.change(actions)
        this.#look()
        return null
      },
      'bitmap-content': ({ node, name }) => graph.bitmaps.content(node, name),
      'bitmap-sha256': ({ node, name }) => graph.bitmaps.sha256(node, name),
      'node-map': ({ node, offset, length, limit }) => mapNode(graph, node, offset, length, limit),
      'node-append': async ({ node, overlay, filter }) =>
        done(await appendOverlay(graph, graph.node(node), graph.node(overlay), filter)),
      'node-rename-backing': async ({ node, backing }) =>
        done(await nameBacking(graph, graph.node(node), backing)),
      'node-empty': async ({ node }) => done(await emptyImage(graph, graph.node(node))),
      'target-create': (args) => this.#createTarget(args),
      'target-probe': ({ filename }) => probeFormat(this.#engine, this.#buffers, filename),
      'job-start': ({ id, spec, share }) => this.#start(id, spec, share),
      ...this.#jobs.handlers,
      'job-finalize': async (args) => {
        await this.#jobs.handlers['job-finalize'](args)
        this.#look()
        return null
      },
      ...this.#transactions.handlers,
      ...this.#exports.handlers,
      'throttle-group-set': ({ id, limits }) => done(graph.throttleGroup(id, limits)),
      rest: () => ({ clean: this.#rest() }),
      'load-formats': async () => {
        await import('./block/drivers/qcow2/open.js')
        return null
      },
      shutdown: ({ deadlineMs }) => this.#shutdown(deadlineMs),
    }
  }

  async #createTarget(args: Requests['target-create']['args']): Promise<null> {
    const source = this.#graph.node(args.source)
    const claim = await (args.job === 'backup'
      ? this.#graph.claim(BACKUP_USER, source, backupSourcePermissions(false))
      : this.#graph.claim(MIRROR_USER, source, sourcePermissions(args.job === 'one-shot')))
    try {
      if (args.image !== undefined) await checkImage(args.image)
      await this.#graph.createFile(args.spec, args.refuse)
      if (args.image !== undefined)
        await createImage(this.#graph, args.image, this.#buffers, new AbortController().signal)
    } finally {
      await claim.release()
    }
    return null
  }

  async #start(id: string, spec: JobSpec, share?: number): Promise<null> {
    await (await this.#prepare(id, spec, share)).start()
    this.#watch()
    return null
  }

  #prepare(id: string, spec: JobSpec, share?: number): Promise<PreparedJob> {
    return this.#jobs.expect(id, () => this.#prepareExpected(id, spec, share))
  }

  async #prepareExpected(id: string, spec: JobSpec, share?: number): Promise<PreparedJob> {
    for (const node of nodesOf(spec)) await this.#graph.freshen(node)
    const policy = policyOf(spec)
    const make = (control: JobControl) => {
      control.signal.addEventListener('abort', () => this.#graph.hurry(nodesOf(spec)), { once: true })
      return this.#makeBody(spec, control)
    }
    return await this.#jobs.prepare(id, make, policy, share)
  }

  #makeBody(spec: JobSpec, control: JobControl): JobBody {
    switch (spec.kind) {
      case 'mirror':
        return new MirrorJob(spec, this.#graph, this.#buffers.share(), control)
      case 'backup':
        return new BackupJob(spec, this.#graph, this.#buffers.share(), control)
      case 'create':
        return new CreateJob(spec, this.#graph, this.#buffers, control.signal)
      case 'check':
        return new CheckJob(spec, this.#graph, this.#buffers, this.#engine, control)
      case 'bench':
        return new BenchJob(spec, this.#graph, this.#buffers, control)
      case 'compare':
        return new CompareJob(spec, this.#graph, this.#buffers, control)
      case 'resize':
        return new ResizeJob(spec, this.#graph, this.#buffers, control)
      case 'commit':
        return new CommitJob(spec, this.#graph, this.#buffers.share(), control)
      case 'stream':
        return new StreamJob(spec, this.#graph, this.#buffers.share(), control)
      default:
        return spec satisfies never
    }
  }

  /** While a job runs or a client writes, what the images occupy changes. */
  #watch(): void {
    this.#refresh ??= setInterval(() => {
      if (this.#jobs.running === 0 && this.#exports.clients === 0) {
        clearInterval(this.#refresh)
        this.#refresh = undefined
      }
      this.#look()
    }, REFRESH_MS)
  }

  #look(): void {
    this.#graph.refresh().catch((error: unknown) => {
      this.#report({
        kind: 'log',
        level: 'debug',
        fields: { error: String(error) },
        text: 'no facts of an image',
      })
    })
  }

  /** Looks and does not wait: who has to wait for something is not at rest. */
  #rest(): boolean {
    const others = this.#unanswered - 1 + this.#jobs.size + this.#exports.size
    if (this.#failed || others + this.#engine.stats().requests > 0 || !this.#graph.forget()) return false
    // Whoever still has a buffer now has lost it.
    if (this.#engine.stats().slotsInUse > 0) return false
    clearInterval(this.#refresh)
    this.#refresh = undefined
    this.#engine.trim()
    return true
  }

  async #shutdown(deadlineMs: number): Promise<{ left: number }> {
    this.#jobs.cancelAll()
    const started = performance.now()
    await atMost(this.#conclude(), deadlineMs)
    clearInterval(this.#refresh)
    const rest = Math.max(0, deadlineMs - (performance.now() - started))
    return { left: await this.#engine.shutdown(rest) }
  }

  async #conclude(): Promise<void> {
    await this.#jobs.conclude()
    await this.#exports.close()
    await this.#graph.close()
  }
}

function policyOf(spec: JobSpec): Policy {
  if (spec.kind === 'mirror' || spec.kind === 'backup')
    return { read: spec.onSourceError, write: spec.onTargetError }
  if (spec.kind === 'commit' || spec.kind === 'stream') return { read: spec.onError, write: spec.onError }
  return { read: 'report', write: 'report' }
}

/** Open nodes that a job uses. */
function nodesOf(spec: JobSpec): readonly string[] {
  switch (spec.kind) {
    case 'mirror':
    case 'backup':
      return [spec.source, spec.target]
    case 'create':
      return []
    case 'bench':
    case 'check':
    case 'resize':
      return [spec.node]
    case 'compare':
      return [spec.node, spec.other]
    case 'commit':
      return [spec.overlay, spec.base]
    case 'stream':
      return [spec.node]
    default:
      return spec satisfies never
  }
}

function done(_nothing: unknown): null {
  return null
}
