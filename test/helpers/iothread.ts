// SPDX-License-Identifier: Apache-2.0
// A disk's worker without the thread: its root object in this process, for tests of jobs and nodes.

import { Iothread } from '../../daemon/iothread/iothread.js'
import type {
  FromWorker,
  MirrorSpec,
  NodeSpec,
  Report,
  RequestName,
  Requests,
  ToWorker,
} from '../../daemon/iothread/messages.js'
import type { BackupSpec } from '../../daemon/iothread/messages-backup.js'
import { createEngine } from '../../native/engine.js'
import type { EngineKind, IoEngine } from '../../native/types.js'

/** As a worker has. */
const MOST_SLOTS = 192
const SET_APART = 32

export class Bench {
  readonly reports: Report[] = []
  readonly engine: IoEngine
  readonly #pending = new Map<number, { resolve: (v: never) => void; reject: (e: Error) => void }>()
  readonly #iothread: Iothread
  readonly #waiting = new Set<() => void>()
  #next = 0

  constructor(aio: EngineKind | 'auto' = 'threads') {
    this.engine = createEngine({ aio, maxSlots: MOST_SLOTS, setApart: SET_APART })
    this.#iothread = new Iothread(this.engine, (message) => this.#receive(message))
  }

  request<N extends RequestName>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']> {
    const request = this.#next++
    const settled = new Promise<Requests[N]['reply']>((resolve, reject) => {
      this.#pending.set(request, { resolve, reject })
    })
    void this.#iothread.receive({ request, name, args } as ToWorker)
    return settled
  }

  #receive(message: FromWorker): void {
    if ('report' in message) {
      this.reports.push(message.report)
      for (const look of this.#waiting) look()
      return
    }
    const pending = this.#pending.get(message.reply)
    this.#pending.delete(message.reply)
    if ('error' in message) pending?.reject(new Error(message.error.message))
    else pending?.resolve(message.value as never)
  }

  /** Waits for a report of a job, also one that came before. */
  async report<K extends Report['kind']>(kind: K, id: string): Promise<Extract<Report, { kind: K }>> {
    for (;;) {
      const found = this.reports.find((report) => report.kind === kind && 'id' in report && report.id === id)
      if (found !== undefined) return found as Extract<Report, { kind: K }>
      await new Promise<void>((resolve) => {
        const look = () => {
          this.#waiting.delete(look)
          resolve()
        }
        this.#waiting.add(look)
      })
    }
  }

  /** Kinds of the reports about a job in order, progress left out. */
  story(id: string): string[] {
    return this.reports
      .filter((report) => 'id' in report && report.id === id && report.kind !== 'job-progress')
      .map((report) => (report.kind === 'job-error' ? `${report.operation}-${report.action}` : report.kind))
  }

  async add(spec: NodeSpec): Promise<void> {
    await this.request('node-add', { spec })
  }

  async addFile(name: string, filename: string, more: Record<string, unknown> = {}): Promise<void> {
    await this.add({ driver: 'file', 'node-name': name, filename, ...more })
  }

  async mirror(id: string, more: Partial<MirrorSpec> = {}): Promise<void> {
    await this.request('job-start', { id, spec: mirrorSpec(more) })
  }

  async backup(id: string, more: Partial<BackupSpec> = {}): Promise<void> {
    await this.request('job-start', { id, spec: backupSpec(more) })
  }

  async end(): Promise<number> {
    return (await this.request('shutdown', { deadlineMs: 10_000 })).left
  }
}

export function mirrorSpec(more: Partial<MirrorSpec> = {}): MirrorSpec {
  return {
    kind: 'mirror',
    source: 'src',
    target: 'dst',
    sync: 'full',
    filter: '#filter',
    granularity: 0,
    bufSize: 0,
    speed: 0,
    onSourceError: 'report',
    onTargetError: 'report',
    copyMode: 'background',
    onDiverge: 'report',
    yielding: true,
    unmap: true,
    targetIsZero: false,
    autoComplete: false,
    ownsTarget: false,
    ...more,
  }
}

export function backupSpec(more: Partial<BackupSpec> = {}): BackupSpec {
  return {
    kind: 'backup',
    source: 'src',
    target: 'dst',
    sync: 'full',
    bitmap: undefined,
    filter: '#filter',
    speed: 0,
    compress: false,
    onSourceError: 'report',
    onTargetError: 'report',
    onCbwError: 'break-guest-write',
    cbwTimeoutMs: 0,
    yielding: true,
    discardSource: false,
    workers: 16,
    maxChunk: 0,
    minClusterSize: 0,
    ownsTarget: false,
    ...more,
  }
}
