// SPDX-License-Identifier: Apache-2.0
// Asks a daemon `query-jobs` every 2 ms on a connection of its own and notes how long each answer took.
// Runs in a thread of its own, so that the bench's work does not show in the figures.

import { once } from 'node:events'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

export interface ProbeResult {
  readonly answers: number
  /** Milliseconds. */
  readonly longest: number
  readonly p99: number
}

const EVERY_MS = 2

export class Probe {
  readonly #worker: Worker

  private constructor(worker: Worker) {
    this.#worker = worker
  }

  /** Connected, negotiated and asking. */
  static async start(socket: string): Promise<Probe> {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { socket } })
    await once(worker, 'message')
    return new Probe(worker)
  }

  /** Waits for the answer that is due, then tells. */
  async stop(): Promise<ProbeResult> {
    this.#worker.postMessage('stop')
    const [result]: ProbeResult[] = await once(this.#worker, 'message')
    await this.#worker.terminate()
    if (!result) throw new Error('the probe said nothing')
    return result
  }
}

/** The q-th part of sorted values, 0..1. */
function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0
}

function run(path: string): void {
  const socket = connect(path)
  const taken: number[] = []
  let asked = 0
  let negotiated = false
  let stopping = false
  const ask = (): void => {
    asked = performance.now()
    socket.write('{"execute":"query-jobs","id":0}\n')
  }
  const answered = (): void => {
    taken.push(performance.now() - asked)
    if (!stopping) setTimeout(ask, EVERY_MS)
    else {
      const sorted = taken.sort((a, b) => a - b)
      parentPort?.postMessage({
        answers: sorted.length,
        longest: sorted.at(-1) ?? 0,
        p99: quantile(sorted, 0.99),
      })
    }
  }
  let rest = ''
  socket.setEncoding('utf8')
  socket.on('data', (text: string) => {
    const parts = (rest + text).split('\n')
    rest = parts.pop() ?? ''
    for (const line of parts) {
      if (line.includes('"QMP"')) socket.write('{"execute":"qmp_capabilities"}\n')
      else if (!negotiated && line.includes('"return"')) {
        negotiated = true
        parentPort?.postMessage('ready')
        ask()
      } else if (/"id": ?0[,}]/.test(line) && line.includes('"return"')) answered()
    }
  })
  parentPort?.on('message', () => {
    stopping = true
  })
}

if (!isMainThread && typeof workerData?.socket === 'string') run(workerData.socket)
