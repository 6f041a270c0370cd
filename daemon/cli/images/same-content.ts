// SPDX-License-Identifier: Apache-2.0
// Whether a file holds what an image on a server does: both compute the checksum of what they have. The file's is computed
// by a daemon of the command's own. Used after transfers that went on from an earlier run: what that run left may have been
// changed by others since.

import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import { embeddedDaemon, imagesSockets } from '../embedded.js'
import { HttpServer } from './http.js'
import { jsonOf, type RemoteImage } from './transfer.js'

/** Seconds; a ticket whose requests are under way does not expire. */
const TIMEOUT_S = 300
/** Of those that servers know. */
const QUERY = 'algorithm=blake2b&block_size=4194304'

/** @param size  of both, bytes. @throws CliError when one of them cannot be read */
export async function sameContent(remote: RemoteImage, name: string, size: number): Promise<boolean> {
  const daemon = await embeddedDaemon({ images: true })
  const { local, control } = imagesSockets(daemon.socket)
  const [tickets, images] = [HttpServer.onSocket(control), HttpServer.onSocket(local)]
  try {
    const uuid = randomUUID()
    const ticket = { uuid, size, ops: ['read'], timeout: TIMEOUT_S, url: `file://${resolve(name)}` }
    await tickets.text({ method: 'PUT', path: `/tickets/${uuid}`, body: JSON.stringify(ticket) })
    const [ours, theirs] = await Promise.all([
      checksumAt(images, `/images/${uuid}`),
      checksumAt(remote.server, remote.path),
    ])
    return ours === theirs
  } finally {
    for (const server of [tickets, images]) server.close()
    await daemon.close()
  }
}

async function checksumAt(server: HttpServer, path: string): Promise<unknown> {
  const text = await server.text({ method: 'GET', path: `${path}/checksum?${QUERY}`, patient: true })
  return (jsonOf(text) as { checksum?: unknown }).checksum
}
