// SPDX-License-Identifier: Apache-2.0
// A daemon under test: started on a socket of its own, watched through /proc, ended with a check that nothing is left.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { blockferryd, type Program, type Running, start } from './program.js'
import { QmpClient } from './qmp-client.js'

export interface DaemonOptions {
  /** Folder of the socket; must be short (a socket path has 107 bytes). */
  readonly directory: string
  readonly program?: Program
  readonly args?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
}

export interface CpuTime {
  readonly user: number
  readonly system: number
}

export class Daemon {
  readonly socket: string
  readonly running: Running
  readonly #clients: QmpClient[] = []

  private constructor(socket: string, running: Running) {
    this.socket = socket
    this.running = running
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

  /** One more client; `which` names one of three sockets. */
  async connect(which: '' | '1' | '2' = ''): Promise<QmpClient> {
    const client = await QmpClient.connect(`${this.socket}${which}`)
    this.#clients.push(client)
    return client
  }

  /** CPU seconds of the process so far, ended children included. */
  cpu(): CpuTime {
    const fields = statFields(this.pid)
    const ticks = (at: number): number => Number(fields[at - 3]) / 100
    return { user: ticks(14) + ticks(16), system: ticks(15) + ticks(17) }
  }

  /** Bytes: resident now, and at most. */
  memory(): { readonly rss: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8')
    const of = (name: string): number =>
      Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) * 1024
    return { rss: of('VmRSS'), peak: of('VmHWM') }
  }

  threads(): number {
    return readdirSync(`/proc/${this.pid}/task`).length
  }

  /** What the open descriptors lead to, sorted. */
  descriptors(): string[] {
    const folder = `/proc/${this.pid}/fd`
    return readdirSync(folder)
      .map((name) => {
        try {
          return readlinkSync(join(folder, name))
        } catch {
          return 'closed meanwhile'
        }
      })
      .sort()
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

/** Fields of /proc/PID/stat from the third on; the second is a name that may hold anything. */
function statFields(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}
