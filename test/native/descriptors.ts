// SPDX-License-Identifier: Apache-2.0
// What this process and the thread groups of its engines have open; sockets, pipes and files to hand to an engine.

import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { createServer, connect as dial, type Socket } from 'node:net'
import { childrenOf } from '../helpers/processes.js'
import { pace } from '../helpers/waiting.js'

let pairs = 0

interface Teardown {
  teardown(end: () => unknown): void
}

function isGroup(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('blockferry-io')
  } catch {
    return false
  }
}

/** What every open descriptor of this process and of its engines' groups refers to. */
export function openDescriptors(): string[] {
  const groups = childrenOf(process.pid).filter(isGroup)
  return [process.pid, ...groups].flatMap((pid) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => targetOf(`/proc/${pid}/fd/${fd}`) ?? [])
    } catch {
      return [] // the group has ended
    }
  })
}

function targetOf(link: string): string | undefined {
  try {
    return readlinkSync(link)
  } catch {
    return undefined
  }
}

/**
 * Waits until no more than `before` are open; polled, because what an engine leaves closes a moment after it has ended.
 * @returns what there is too much, by kind: empty when all is as before
 */
export async function leftOver(before: readonly string[]): Promise<string[]> {
  let left: string[] = []
  for (let tries = 0; tries < 1000; tries++) {
    const known = [...before]
    left = openDescriptors().filter((each) => {
      const at = known.indexOf(each)
      if (at >= 0) known.splice(at, 1)
      return at < 0
    })
    if (left.length === 0) return left
    await pace(10)
  }
  return left
}

/** Number of a descriptor under a Node socket. */
export function descriptorOf(socket: Socket): number {
  return (socket as unknown as { _handle: { fd: number } })._handle.fd
}

/** Two ends of one connection: `mine` is not read by Node, so that its descriptor can be handed over. */
export async function socketPair(t: Teardown, kind: 'unix' | 'tcp' = 'unix'): Promise<SocketPair> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
  // In the abstract name space: test folders have longer names than sockets may have.
  if (kind === 'unix') server.listen(`\0blockferry-test-${process.pid}-${pairs++}`)
  else server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const accepted = once(server, 'connection')
  const peer =
    typeof address === 'string'
      ? dial({ path: address, allowHalfOpen: true })
      : dial({ port: address?.port ?? 0, allowHalfOpen: true })
  const [[mine]] = (await Promise.all([accepted, once(peer, 'connect')])) as [[Socket], unknown]
  server.close()
  for (const socket of [mine, peer]) {
    socket.on('error', () => socket.destroy())
    t.teardown(() => socket.destroy())
  }
  return { mine, peer, fd: descriptorOf(mine) }
}

export interface SocketPair {
  readonly mine: Socket
  readonly peer: Socket
  /** Of `mine`. */
  readonly fd: number
}
