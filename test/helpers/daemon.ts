// SPDX-License-Identifier: Apache-2.0
// A daemon under test: started on a socket of its own, watched through /proc, ended with a check that nothing is left.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { blockferryd, type Program, type Running, start } from './program.js'
import { QmpClient } from './qmp-client.js'
import { pace } from './waiting.js'

export interface DaemonOptions {
  /** Folder of the socket; must be short (a socket path has 107 bytes). */
  readonly directory: string
  readonly program?: Program
  readonly args?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
}

/** When a daemon has begun to make the last of the threads it makes ahead. */
const LAST_AHEAD_MS = 3500

export interface CpuTime {
  readonly user: number
  readonly system: number
}

export class Daemon {
  readonly socket: string
  readonly running: Running
  readonly #clients: QmpClient[] = []
  readonly #startedMs = performance.now()
  readonly #gone = new AbortController()

  private constructor(socket: string, running: Running) {
    this.socket = socket
    this.running = running
    running.child.once('exit', () => this.#gone.abort())
  }

  /** Started and answering. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const socket = join(options.directory, 'qmp.sock')
    const program = options.program ?? blockferryd
    const monitor = ['--chardev', `socket,id=c,path=${socket},server=on,wait=off`, '--monitor', 'chardev=c']
    // The storage daemon serves one client per socket: the probe and a bystander get sockets of their own.
    const more = [1, 2].flatMap((n) => [
      ...['--chardev', `socket,id=c${n},path=${socket}${n},server=on,wait=off`, '--monitor', `chardev=c${n}`],
    ])
    const command = [...program.command(options.directory), ...monitor, ...more, ...(options.args ?? [])]
    const running = start(command as [string, ...string[]], { ...process.env, ...options.env })
    const daemon = new Daemon(socket, running)
    try {
      await daemon.connect()
    } catch (cause) {
      await running.stop()
      throw new Error(`${program.name} did not come up: ${running.stderr()}`, { cause })
    }
    return daemon
  }

  get pid(): number {
    return this.running.pid
  }

  /** The client that `start` made. */
  get client(): QmpClient {
    const first = this.#clients[0]
    if (!first) throw new Error('not started')
    return first
  }

  /** One more client; `which` names one of three sockets. Fails at once when the daemon has ended. */
  async connect(which: '' | '1' | '2' = ''): Promise<QmpClient> {
    const client = await QmpClient.connect(`${this.socket}${which}`, undefined, this.#gone.signal)
    this.#clients.push(client)
    return client
  }

  /** The process and its children: I/O tasks are thread groups of their own. */
  #groups(): number[] {
    const children = readdirSync('/proc')
      .filter((name) => /^[0-9]+$/.test(name))
      .map(Number)
      .filter((pid) => Number(statFields(pid)?.[1]) === this.pid)
    return [this.pid, ...children]
  }

  /** CPU seconds so far, of children that are there and of those that ended. */
  cpu(): CpuTime {
    let [user, system] = [0, 0]
    for (const pid of this.#groups()) {
      const fields = statFields(pid)
      const ticks = (at: number): number => Number(fields?.[at - 3] ?? 0) / 100
      user += ticks(14) + ticks(16)
      system += ticks(15) + ticks(17)
    }
    return { user, system }
  }

  /** Bytes: resident now, and at most. */
  memory(): { readonly rss: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8')
    const of = (name: string): number =>
      Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024
    return { rss: of('VmRSS'), peak: of('VmHWM') }
  }

  threads(): number {
    return this.#groups().reduce((sum, pid) => sum + entries(`/proc/${pid}/task`).length, 0)
  }

  /** What the open descriptors lead to, sorted. */
  descriptors(): string[] {
    return this.#groups()
      .flatMap((pid) => entries(`/proc/${pid}/fd`).map((name) => `/proc/${pid}/fd/${name}`))
      .map((link) => {
        try {
          return readlinkSync(link)
        } catch {
          return 'closed meanwhile'
        }
      })
      .sort()
  }

  /**
   * Descriptors once all threads that are made ahead are there, the last after three seconds, and nothing has come or gone for
   * half a second.
   */
  async settledDescriptors(): Promise<number> {
    await pace(Math.max(0, this.#startedMs + LAST_AHEAD_MS - performance.now()))
    for (let last = -1, same = 0; ; ) {
      const now = this.descriptors().length
      same = now === last ? same + 1 : 0
      if (same === 10) return now
      last = now
      await pace(50)
    }
  }

  /** Ends it with SIGTERM. @returns what was wrong with its end, if anything. */
  async stop(timeoutMs = 10_000): Promise<string | undefined> {
    for (const client of this.#clients) client.close()
    const status = await this.running.stop(timeoutMs)
    if (status !== 0) return `exit status ${status}: ${this.running.stderr()}`
    if (existsSync(this.socket)) return `${this.socket} was left behind`
    return undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close()
    await this.running.stop()
  }
}

/** Fields of /proc/PID/stat from the third on (the second is a name that may hold anything); undefined when it has ended. */
function statFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
