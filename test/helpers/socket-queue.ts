// SPDX-License-Identifier: Apache-2.0
// What lies in TCP sockets of this machine and was not read yet, as the kernel tells it.

import { readFileSync } from 'node:fs'
import { pace } from './waiting.js'

/** Bytes that the one at port `local` has received from the one at port `remote`, and that nobody has read. */
function unread(local: number, remote: number): number {
  const port = (address: string | undefined) => Number.parseInt(address?.split(':')[1] ?? '', 16)
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
    const [, from, to, , queues] = line.trim().split(/\s+/)
    if (port(from) === local && port(to) === remote) return Number.parseInt(queues?.split(':')[1] ?? '', 16)
  }
  throw new Error(`no connection between ports ${local} and ${remote}`)
}

/** Resolves when all was read that has come. */
export async function allRead(local: number, remote: number): Promise<void> {
  while (unread(local, remote) > 0) await pace(1)
}
