// SPDX-License-Identifier: Apache-2.0
// A memory worker in the thread of the test: transfers over a real engine, as the main thread asks for them.

import type { Test } from 'tap'
import type { JobReport } from '../../../daemon/common/job-messages.js'
import { MemoryThread } from '../../../daemon/memory/memory-thread.js'
import type {
  DirectReading,
  FromWorker,
  InspectSpec,
  Report,
  Requests,
  SinkSpec,
  SourceSpec,
  TransferSpec,
  TransferStats,
} from '../../../daemon/memory/messages.js'
import { MOST_SLOTS } from '../../../daemon/memory/slots.js'
import { createEngine } from '../../../native/engine.js'
import type { AioChoice } from '../../../native/types.js'

type Ended = Extract<JobReport, { kind: 'job-ended' }>

const MIB = 2 ** 20
const JOB = 'job'

export class Worker {
  readonly #thread: MemoryThread
  readonly #waiting = new Map<number, (message: FromWorker) => void>()
  readonly reports: Report[] = []
  #heard: (() => void)[] = []
  #requests = 0
  #ended: Promise<{ left: number }> | undefined

  /** Ended with the test, unless it has been. */
  constructor(t: Pick<Test, 'teardown'>, aio: AioChoice = 'threads') {
    const engine = createEngine({ aio, slotSize: MIB, maxSlots: MOST_SLOTS })
    this.#thread = new MemoryThread(engine, (message) => this.#take(message))
    t.teardown(async () => {
      const left = await this.end()
      if (left !== 0) throw new Error(`${left} requests are left in the engine`)
    })
  }

  /** Ends the worker, if it has not ended. @returns how many requests are left in its engine */
  async end(deadlineMs = 5000): Promise<number> {
    this.#ended ??= this.request('shutdown', { deadlineMs })
    return (await this.#ended).left
  }

  /** @throws Error with the text of a refusal */
  request<N extends keyof Requests>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']> {
    const request = this.#requests++
    return new Promise((resolve, reject) => {
      this.#waiting.set(request, (message) => {
        if ('error' in message) reject(new Error(message.error.message))
        else if ('value' in message) resolve(message.value as never)
      })
      void this.#thread.receive({ request, name, args } as never)
    })
  }

  /** Answers when it runs. */
  async start(spec: TransferSpec | InspectSpec): Promise<void> {
    await this.request('job-start', { id: JOB, spec })
  }

  /** Answers when a transfer runs: its source listens. */
  async running(): Promise<void> {
    await this.until((report) => report.kind === 'job-running')
  }

  /** How the transfer ended. */
  async ended(): Promise<Ended> {
    return (await this.until((report) => report.kind === 'job-ended')) as Ended
  }

  /** The first report of that kind, perhaps one that came already. */
  async until(wanted: (report: Report) => boolean): Promise<Report> {
    for (;;) {
      const found = this.reports.find(wanted)
      if (found !== undefined) return found
      await new Promise<void>((resolve) => this.#heard.push(resolve))
    }
  }

  get stats(): TransferStats | undefined {
    const all = this.reports.filter((report) => report.kind === 'memory-stats')
    return all.at(-1)?.stats
  }

  async cancel(): Promise<void> {
    await this.request('job-cancel', { id: JOB })
  }

  /** A transfer from its start to its end. @returns the error, undefined when there was none */
  async run(spec: TransferSpec): Promise<string | undefined> {
    try {
      await this.start(spec)
    } catch (error) {
      return `refused: ${(error as Error).message}`
    }
    const { outcome } = await this.ended()
    if (outcome.kind === 'success') await this.request('job-finalize', { id: JOB, commit: true })
    return outcome.kind === 'failed' ? outcome.error : outcome.kind === 'cancelled' ? 'cancelled' : undefined
  }

  #take(message: FromWorker): void {
    if ('report' in message) {
      this.reports.push(message.report)
      for (const heard of this.#heard.splice(0)) heard()
      return
    }
    const resolve = this.#waiting.get(message.reply)
    this.#waiting.delete(message.reply)
    resolve?.(message)
  }
}

export function spec(source: SourceSpec, sink: SinkSpec, more: Partial<TransferSpec> = {}): TransferSpec {
  return { kind: 'memory', source, sink, bandwidth: 0, shared: [], renames: [], ...more }
}

export function fileSource(path: string, offset = 0, direct: DirectReading = true): SourceSpec {
  return { kind: 'file', file: { kind: 'path', path }, offset, direct }
}

/** Of a file that was just written, and so is in the page cache. */
export function cachedSource(path: string): SourceSpec {
  return fileSource(path, 0, 'unless-cached')
}

/** Looks at a file. @returns what was found. @throws Error with what was refused or went wrong */
export async function inspect(
  t: Test,
  what: InspectSpec['what'],
  path: string,
  more: Partial<InspectSpec> & { readonly offset?: number } = {},
): Promise<Found> {
  const { offset = 0, ...rest } = more
  const worker = new Worker(t)
  const image = { file: { kind: 'path', path }, offset, direct: true } as const
  const spec = { kind: 'inspect', what, image, other: undefined, digests: undefined, cells: 65536 } as const
  await worker.start({ ...spec, ...rest })
  const { outcome, result } = await worker.ended()
  if (outcome.kind !== 'success') throw new Error(outcome.kind === 'failed' ? outcome.error : outcome.kind)
  await worker.request('job-finalize', { id: JOB, commit: true })
  return result as Found
}

/** What an inspection tells; tests know what to expect. */
export type Found = Record<string, unknown> & { readonly blocks: Record<string, unknown>[] }

export type FileSink = Extract<SinkSpec, { kind: 'file' }>

export function fileSink(path: string, format: FileSink['format'], more: Partial<FileSink> = {}): FileSink {
  return {
    kind: 'file',
    ...{ format, offset: 0, direct: true, channels: 8, flush: 'full', domain: undefined, digests: false },
    file: { kind: 'path', path },
    ...more,
  }
}
