// SPDX-License-Identifier: Apache-2.0
// The far end of a migration over a Unix socket, as simple as it can be: a stream put into a file, a file sent as a stream.

import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { connect, createServer } from 'node:net'
import { pipeline } from 'node:stream/promises'

export interface Receiver extends AsyncDisposable {
  readonly uri: string
  /** Resolves with the bytes received when the source has closed and the file is written (not flushed). */
  readonly received: Promise<number>
}

/** Listens at `socket` for one source. */
export async function receiveStream(socket: string, file: string): Promise<Receiver> {
  const server = createServer({ allowHalfOpen: true })
  server.listen(socket)
  await once(server, 'listening')
  const receive = async (): Promise<number> => {
    const [source] = await once(server, 'connection')
    await pipeline(source, createWriteStream(file))
    return source.bytesRead
  }
  const received = receive()
  received.catch(() => undefined)
  return {
    uri: `unix:${socket}`,
    received,
    [Symbol.asyncDispose]: async () => {
      server.close()
    },
  }
}

/** How a connection looks that the other side closed first. */
const CLOSED = ['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE']

/**
 * Sends a stream to a QEMU that listens. It closes as soon as it has read the end of a stream, or found it wrong: that it
 * did so before us is no error here, its own report says which it was.
 */
export async function sendStream(file: string, socket: string): Promise<void> {
  const destination = connect(socket)
  await once(destination, 'connect')
  try {
    await pipeline(createReadStream(file, { highWaterMark: 2 ** 20 }), destination)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && CLOSED.includes(String(error.code)))) throw error
  }
}
