// SPDX-License-Identifier: Apache-2.0
// Runs a blockferryd for one command. It listens on a private socket (so that a paused job can be steered from
// another terminal) and on descriptor 3, one end of a socket pair whose other end is ours: when this process ends, in
// whatever way, the daemon sees the end of that stream, shuts down (--exit-with-monitor) and takes the folder of its socket away.

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Duplex } from 'node:stream'
import { entryFile } from '../common/entries.js'
import { Client } from './client.js'
import type { Daemon } from './daemon.js'
import { noConnection } from './status.js'

/** The daemon promises to be gone 5 s after it was asked, whatever storage does. Milliseconds. */
const shutdownMs = 7000

/** Bytes of the daemon's stderr that are kept for an error message. */
const keptStderr = 8192

export interface EmbeddedOptions {
  /** The daemon's log goes to our stderr at this level; absent: it is only kept for error messages. */
  readonly logLevel?: string
  readonly aio?: string
  /** How many disks the command opens at first, each in a thread of its own; absent: one. */
  readonly disks?: 0 | 2
  /** It serves images over HTTP too, on imagesSockets(). */
  readonly images?: boolean
}

/**
 * @throws CliError with status 3 when it does not come up
 */
export async function embeddedDaemon(options: EmbeddedOptions): Promise<Daemon> {
  const folder = await privateFolder()
  const socket = join(folder, 'control.sock')
  const child = start(socket, options)
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const words = new LastWords(child)
  const close = async () => {
    await ended
    await rm(folder, { recursive: true, force: true })
  }
  const failure = new Promise<never>((_, reject) => child.once('error', reject))
  try {
    // Node makes the extra pipe of a child a socket pair, open in both directions.
    const client = await Promise.race([Client.open(child.stdio[3] as Duplex), failure])
    return {
      client,
      socket,
      embedded: true,
      lastWords: () => words.text(),
      close: async () => {
        // The reply may or may not come before the end; the end of the stream asks for the same thing.
        await client.execute('quit').catch(() => undefined)
        client.close()
        const late = setTimeout(() => child.kill('SIGKILL'), shutdownMs)
        await close()
        clearTimeout(late)
      },
      kill: () => child.kill('SIGKILL'),
    }
  } catch (cause) {
    child.kill('SIGKILL')
    if (child.pid !== undefined) await close()
    const reason = words.text() ?? (cause as Error).message
    throw noConnection(`the embedded daemon did not start: ${reason}`, { cause })
  }
}

/** Of an embedded daemon, beside its socket: images, and tickets for them. */
export function imagesSockets(socket: string): { readonly local: string; readonly control: string } {
  return { local: join(dirname(socket), 'images'), control: join(dirname(socket), 'tickets') }
}

/** Mode 0700, where the user's sockets belong, else among the temporary files. */
async function privateFolder(): Promise<string> {
  const parents = [process.env.XDG_RUNTIME_DIR || tmpdir(), tmpdir()]
  let cause: unknown
  for (const parent of parents) {
    try {
      return await mkdtemp(join(parent, 'blockferry-'))
    } catch (error) {
      cause = error
    }
  }
  throw noConnection(`no folder for the embedded daemon's socket: ${(cause as Error).message}`, { cause })
}

function start(socket: string, { logLevel, aio, disks, images }: EmbeddedOptions): ChildProcess {
  const { local, control } = imagesSockets(socket)
  const served = images === true ? ['--images-local', local, '--images-control', control] : []
  const given = ['--log-level', logLevel ?? 'warn', ...(aio === undefined ? [] : ['--aio', aio])]
  const expected = disks === undefined ? [] : ['--expect-disks', String(disks)]
  const own = ['--chardev', 'socket,id=cli,fd=3', '--monitor', 'cli', '--exit-with-monitor']
  const cleanup = ['--remove-folder', dirname(socket)]
  // A session of its own: ^C on the terminal is for us to handle, the daemon is told over the control socket.
  return spawn(
    process.execPath,
    [
      entryFile('blockferryd'),
      '--socket',
      socket.replaceAll(',', ',,'),
      ...given,
      ...expected,
      ...served,
      ...own,
      ...cleanup,
    ],
    {
      stdio: ['ignore', 'ignore', logLevel === undefined ? 'pipe' : 'inherit', 'pipe'],
      detached: true,
    },
  )
}

/** Keeps the end of a child's stderr. */
class LastWords {
  #text = ''

  constructor(child: ChildProcess) {
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#text = (this.#text + text).slice(-keptStderr)
    })
  }

  /** The last line; of a log line in JSON its message. */
  text(): string | undefined {
    const line = this.#text.trim().split('\n').at(-1)
    if (line === undefined || line === '') return undefined
    const match = /^\{.*"msg":("(?:[^"\\]|\\.)*")/.exec(line)
    return match?.[1] === undefined ? line.replace(/^blockferryd: /, '') : String(JSON.parse(match[1]))
  }
}
