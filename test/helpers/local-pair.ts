// SPDX-License-Identifier: Apache-2.0
// Two ends of a Unix stream connection in this process, for tests of what goes over it.

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

/** Takes a connection over for a test. */
export function local(t: Test, socket: Socket, options: LocalSocketOptions = {}): LocalSocket {
  const ours = LocalSocket.takeOver(socket, options)
  if (ours === undefined) throw new Error('not a Unix stream socket')
  t.teardown(() => ours.destroy())
  return ours
}
