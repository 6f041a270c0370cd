// SPDX-License-Identifier: Apache-2.0
// Transfers that are made to fail: each in a worker of its own, which is ended, with what they said and what they left.

import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { basename } from 'node:path'
import type { SourceSpec, TransferSpec } from '../../../daemon/memory/messages.js'
import { within } from '../../helpers/waiting.js'
import { Worker } from './worker.js'

/** Longer than any of them takes: what is not over then hangs. */
export const HANG_MS = 60_000

/**
 * Runs a transfer to its end.
 * @param feed  called once it runs; gives it its source
 * @returns the error; undefined: it succeeded
 */
export async function attempt(
  spec: TransferSpec,
  feed?: (worker: Worker) => Promise<void>,
): Promise<string | undefined> {
  // Ended here: a test that makes thousands must not keep them.
  const worker = new Worker({ teardown: () => {} })
  const fed = feed && worker.running().then(() => feed(worker))
  // Of a transfer that is over nobody takes any more.
  fed?.catch(() => undefined)
  const error = await within(worker.run(spec), HANG_MS, 'the end of a transfer')
  const left = await worker.end()
  if (left !== 0) throw new Error(`${left} requests are left in the engine after: ${error}`)
  return error
}

/** Names in a folder that are there because of a target: itself and what was made beside it. */
export function traces(folder: string, target: string): string[] {
  return readdirSync(folder).filter((name) => name.includes(basename(target)))
}

/** A source that listens there. @param channels  beside the main connection */
export function listening(path: string, channels = 0): SourceSpec {
  return { kind: 'stream', channels, from: { kind: 'listen', address: { kind: 'unix', path } } }
}

/** A connection that bears being closed by the other side. */
export async function dial(path: string): Promise<Socket> {
  const socket = connect(path)
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  socket.on('error', () => undefined)
  return socket
}

/** Sends bytes over a connection of its own and closes it; what the other side does not take is lost. */
export async function send(path: string, bytes: Uint8Array): Promise<void> {
  const socket = await dial(path)
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.resume()
  socket.end(bytes)
  await closed
}
