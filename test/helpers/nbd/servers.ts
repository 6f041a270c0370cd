// SPDX-License-Identifier: Apache-2.0
// NBD servers of others, each serving one raw file on a Unix socket as export `disk`.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { installed } from '../program.js'
import { pace } from '../waiting.js'

export interface ServerKind {
  readonly name: string
  /** Why it cannot be had, for skipping. */
  readonly absent: string | false
  /** Requests have to be multiples of it, bytes. */
  readonly minimum: number
  /** @returns program and arguments, in the foreground */
  command(socket: string, file: string, pid: string): readonly [string, ...string[]]
}

const qemuNbd = (name: string, ...more: string[]): ServerKind => ({
  name,
  absent: installed('qemu-nbd') ? false : 'no qemu-nbd',
  minimum: 1,
  command: (socket, file, pid) => [
    'qemu-nbd',
    ...['-t', '-k', socket, '-f', 'raw', '-x', 'disk', '--discard=unmap', `--pid-file=${pid}`, ...more, file],
  ],
})

const nbdkit = (name: string, minimum: number, options: string[], parameters: string[] = []): ServerKind => ({
  name,
  absent: installed('nbdkit') ? false : 'no nbdkit',
  minimum,
  command: (socket, file, pid) => [
    'nbdkit',
    ...['-f', '-U', socket, '-P', pid, '-e', 'disk', ...options, 'file', file, ...parameters],
  ],
})

export const servers: readonly ServerKind[] = [
  qemuNbd('qemu-nbd'),
  qemuNbd('qemu-nbd for several clients', '--shared=8'),
  nbdkit('nbdkit', 1, []),
  nbdkit('nbdkit without structured replies', 1, ['--no-sr']),
  nbdkit(
    'nbdkit with blocks of 4096 bytes',
    4096,
    ['--filter=blocksize-policy'],
    [
      'blocksize-minimum=4096',
      'blocksize-preferred=4096',
      'blocksize-maximum=65536',
      'blocksize-error-policy=error',
    ],
  ),
]

export class RunningServer implements AsyncDisposable {
  readonly socket: string
  readonly #child: ReturnType<typeof spawn>
  readonly #ended: Promise<unknown>

  private constructor(socket: string, child: ReturnType<typeof spawn>) {
    this.socket = socket
    this.#child = child
    this.#ended = once(child, 'exit')
  }

  /** Started and listening. @param socket  its folder must be short */
  static async start(kind: ServerKind, socket: string, file: string): Promise<RunningServer> {
    const pid = `${socket}.pid`
    // Of a server that was killed.
    rmSync(pid, { force: true })
    const [program, ...args] = kind.command(socket, file, pid)
    const child = spawn(program, args, { stdio: 'ignore' })
    const orphaned = () => void child.kill('SIGKILL')
    process.once('exit', orphaned)
    child.once('exit', () => process.removeListener('exit', orphaned))
    const server = new RunningServer(socket, child)
    // Written when it listens.
    while (!existsSync(pid) || readFileSync(pid, 'utf8') === '') {
      if (child.exitCode !== null) throw new Error(`${program} ${args.join(' ')} ended`)
      await pace(5)
    }
    return server
  }

  /** The server as a node's options. */
  get options(): object {
    return { driver: 'nbd', server: { type: 'unix', path: this.socket }, export: 'disk' }
  }

  signal(name: 'SIGSTOP' | 'SIGCONT' | 'SIGKILL'): void {
    this.#child.kill(name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}
