// SPDX-License-Identifier: Apache-2.0
// `blockferry upload`: sends the bytes of a file or device to an image on an HTTP server. Which of them read as zeroes tells a
// daemon of the command's own, which also locks the file; those are zeroed there and not sent.

import { createHash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Image } from '../image.js'
import { extentsOf } from '../map.js'
import { lookAtImage } from '../mirror-request.js'
import { sizeOfNode } from '../node-size.js'
import { withNodes } from '../open-nodes.js'
import { failed, usage } from '../status.js'
import { type About, DoneRecord, rangesIn, removeRecord } from './done-record.js'
import { sameContent } from './same-content.js'
import {
  eachPiece,
  lengthOf,
  type Part,
  PIECE,
  pieces,
  RemoteImage,
  type TransferOptions,
  TransferProgress,
} from './transfer.js'

export interface UploadOptions extends TransferOptions {
  readonly forceShare: boolean
  /** File that says what is done. */
  readonly resume?: string
}

export async function upload(name: string, url: string, options: UploadOptions): Promise<void> {
  if (options.resume !== undefined && options.forceShare)
    throw usage('--resume needs a file that nobody changes: it cannot go with --force-share')
  const image: Image = { end: await lookAtImage(name), format: 'raw', guessed: false }
  const target = await RemoteImage.at(url, options)
  try {
    await withNodes({}, async ({ client }, nodes) => {
      const { features, most } = await target.options('max_writers')
      const node = await nodes.open(image, 'upload', {
        ...{ readOnly: true, direct: false, forceShare: options.forceShare },
      })
      await using file = await open(image.end.path)
      const facts = await file.stat({ bigint: true })
      // A node has whole sectors; a file ends where it ends.
      const size = facts.isFile() ? Number(facts.size) : await sizeOfNode(client, node)
      const parts = (await extentsOf(client, node, image)).map(({ start, length, zero }) => ({
        ...{ start, length: Math.min(length, size - start), zero: zero && features.includes('zero') },
      }))
      const sending = { name, path: image.end.path, url, file, target, features, parts, size }
      const connections = Math.min(options.connections, most)
      if (options.resume === undefined) await send(sending, connections, options, undefined)
      else await sendOrGoOn(sending, connections, options, options.resume, facts)
    })
  } finally {
    target.server.close()
  }
}

interface Sending {
  readonly name: string
  readonly path: string
  readonly url: string
  readonly file: FileHandle
  readonly target: RemoteImage
  readonly features: readonly string[]
  readonly parts: readonly Part[]
  readonly size: number
}

/** Returns when all of it is durable there. */
async function send(
  sending: Sending,
  connections: number,
  options: UploadOptions,
  record: DoneRecord | undefined,
): Promise<void> {
  const { file, target, parts, size } = sending
  using progress = new TransferProgress('upload', size, options.progress)
  if (record?.resumed) progress.resumed(record.bytesBefore)
  // Memory that is new for each piece costs more than filling it: the kernel zeroes it page by page.
  const buffers = Array.from({ length: connections }, () => Buffer.allocUnsafeSlow(Math.min(PIECE, size)))
  await eachPiece(pieces(record?.missing(parts) ?? parts), connections, async (part, worker) => {
    if (part.zero) await target.patch({ op: 'zero', offset: part.start, size: part.length, flush: false })
    else await put(target, file, part, buffers[worker] ?? Buffer.alloc(0))
    progress.did(part.length)
    await record?.did(part)
  })
  await flush(sending)
}

/** As send(), with what is done in a file: an upload that was cut off goes on. */
async function sendOrGoOn(
  sending: Sending,
  connections: number,
  options: UploadOptions,
  path: string,
  facts: BigIntStats,
): Promise<void> {
  const { target, size } = sending
  const record = await DoneRecord.open(path, ...(await begunBefore(sending, path, facts)), () =>
    flush(sending),
  )
  try {
    await send(sending, connections, options, record)
    if (record.resumed && !(await sameContent(target, sending.path, size))) {
      await removeRecord(path)
      throw failed('the image there has changed since the upload was begun: run it again to send all of it')
    }
    await removeRecord(path)
  } catch (error) {
    await record.save().catch(() => undefined) // then less of it counts
    if (!record.worth) await removeRecord(path)
    throw error
  } finally {
    await record.close()
  }
}

/** What the upload is, and what an earlier run of the same has done. @throws CliError where that could not be told */
async function begunBefore({ url, target, features, size }: Sending, path: string, facts: BigIntStats) {
  if (!facts.isFile()) throw usage('--resume is for files: nothing tells whether a device has changed')
  for (const needed of ['checksum', 'extents', 'flush'])
    if (!features.includes(needed)) throw failed(`--resume needs a server that can do ${needed}`)
  const { dev, ino, mtimeNs, ctimeNs } = facts
  const about: About = {
    ...{ url: createHash('sha256').update(url).digest('hex'), size, file: `${dev}:${ino}` },
    ...{ mtime: String(mtimeNs), ctime: String(ctimeNs) },
  }
  const before = await rangesIn(path, about)
  // Of one of another size the checksum would say nothing.
  const there = before.length === 0 ? undefined : await target.extents(features)
  return [about, there !== undefined && lengthOf(there) === size ? before : []] as const
}

async function flush({ target, file, features }: Sending): Promise<void> {
  if (features.includes('flush')) await target.patch({ op: 'flush' })
  else await put(target, file, { start: 0, length: 0, zero: false }, Buffer.alloc(0))
}

/** @throws CliError; a file that has become shorter is an error too */
async function put(
  target: RemoteImage,
  file: FileHandle,
  { start, length }: Part,
  memory: Buffer,
): Promise<void> {
  const body = memory.subarray(0, length)
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(body, at, length - at, start + at)
    if (bytesRead === 0) throw failed(`the file has become shorter than ${start + length} bytes`)
    at += bytesRead
  }
  const headers = {
    'content-range': `bytes ${start}-${length === 0 ? '*' : start + length - 1}/*`,
    'content-length': String(length),
    'content-type': 'application/octet-stream',
  }
  const path = `${target.path}?flush=${length === 0 ? 'y' : 'n'}`
  await target.server.text({ method: 'PUT', path, headers, body })
}
