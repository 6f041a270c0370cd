// SPDX-License-Identifier: Apache-2.0
// Asks a control socket one thing again and again on a connection of its own and notes how long each answer took.
// Runs in a thread of its own, so that the asker's other work does not show in the figures.

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

export interface Question {
  /** A command without arguments that is answered at once by who does not stall. */
  readonly command: string
  /** Time from an answer to the next question. */
  readonly everyMs: number
}

const JOBS: Question = { command: 'query-jobs', everyMs: 2 }

export class Probe {
  readonly #worker: Worker

  private constructor(worker: Worker) {
    this.#worker = worker
  }

  /** Connected, negotiated and asking. */
  static async start(socket: string, question: Question = JOBS): Promise<Probe> {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { socket, question } })
    await once(worker, 'message')
    return new Probe(worker)
  }

  /** Waits for the answer that is due, or for the end of the connection, then tells. */
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

function run(path: string, { command, everyMs }: Question): void {
  const socket = connect(path)
  const taken: number[] = []
  let asked = 0
  let negotiated = false
  let stopping = false
  const ask = (): void => {
    asked = performance.now()
    socket.write(`{"execute":"${command}","id":0}\n`)
  }
  const tell = (): void => {
    const sorted = taken.sort((a, b) => a - b)
    parentPort?.postMessage({
      answers: sorted.length,
      longest: sorted.at(-1) ?? 0,
      p99: quantile(sorted, 0.99),
    })
  }
  const answered = (): void => {
    taken.push(performance.now() - asked)
    if (stopping) tell()
    else setTimeout(ask, everyMs)
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
  socket.on('error', (error) => {
    if (!negotiated) throw error
  })
  socket.on('close', () => {
    if (stopping) tell()
  })
  parentPort?.on('message', () => {
    stopping = true
    if (socket.destroyed) tell()
  })
}

if (!isMainThread && typeof workerData?.socket === 'string') run(workerData.socket, workerData.question)
