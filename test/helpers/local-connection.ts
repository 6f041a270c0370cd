// SPDX-License-Identifier: Apache-2.0
// Unix stream connections that can carry descriptors: both ends in this process, or a client's.

import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import type { Test } from 'tap'
import { LocalSocket, type LocalSocketOptions } from '../../native/local-socket.js'
import { shortFolder } from './short-folder.js'

/** Two of Node's own sockets, connected; neither has read anything. Destroyed with the test. */
export async function netPair(t: Test): Promise<[Socket, Socket]> {
  const path = `${shortFolder(t)}/s`
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const one = connect({ path, allowHalfOpen: true })
  one.pause()
  await once(one, 'connect')
  const [other] = await accepted
  server.close()
  t.teardown(() => {
    one.destroy()
    other.destroy()
  })
  return [one, other]
}

/** The same as two sockets of ours. */
export async function localPair(
  t: Test,
  options: LocalSocketOptions = {},
): Promise<[LocalSocket, LocalSocket]> {
  const [one, other] = await netPair(t)
  return [local(t, one, options), local(t, other, options)]
}

/** A client's connection that can send descriptors. Rejects with the system's error when nobody listens. */
export function connectLocal(path: string, options: LocalSocketOptions = {}): Promise<LocalSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('error', reject)
    socket.once('connect', () => {
      const ours = LocalSocket.takeOver(socket, options)
      if (ours === undefined) reject(new Error(`${path} is no Unix stream socket`))
      else resolve(ours)
    })
  })
}

/** Sends all of it with descriptors at its first byte; they stay the caller's. Only while nothing else waits to be sent. */
export function sendPassing(socket: LocalSocket, data: string | Uint8Array, passed: readonly number[]): void {
  const bytes = typeof data === 'string' ? Buffer.from(data, 'latin1') : data
  const sent = socket.sendPassing(bytes, passed)
  if (sent < 0) throw new Error(`not sent: ${sent}`)
  if (sent < bytes.length) socket.write(bytes.subarray(sent))
}

/** Takes a connection over for a test. */
export function local(t: Test, socket: Socket, options: LocalSocketOptions = {}): LocalSocket {
  const ours = LocalSocket.takeOver(socket, options)
  if (ours === undefined) throw new Error('not a Unix stream socket')
  t.teardown(() => ours.destroy())
  return ours
}
