// SPDX-License-Identifier: Apache-2.0
// `blockferry download`: fetches an image from an HTTP server into a new file. What reads as zeroes there becomes holes here
// and is not fetched. Done means that the file is whole and durable; before that it has another name (draft.ts).

import { type FileHandle, open } from 'node:fs/promises'
import { CliError, failed } from '../status.js'
import type { BodySocket } from './body-socket.js'
import { Draft } from './draft.js'
import type { LongReply } from './http.js'
import {
  eachPiece,
  lengthOf,
  type Part,
  pieces,
  RemoteImage,
  type TransferOptions,
  TransferProgress,
} from './transfer.js'

export interface DownloadOptions extends TransferOptions {
  readonly force: boolean
}

export async function download(url: string, name: string, options: DownloadOptions): Promise<void> {
  const source = await RemoteImage.at(url, options)
  try {
    await refuseToReplace(name, options.force)
    const { features, most } = await source.options('max_readers')
    const parts = await source.extents(features)
    const draft = parts === undefined ? await Draft.anew(name) : await Draft.of(name, url, parts, features)
    try {
      if (parts === undefined) await fetchWhole(source, draft.file, options)
      else await fetchParts(source, draft, parts, Math.min(options.connections, most), options)
      await draft.finish(source)
    } finally {
      await draft.leave()
    }
  } catch (error) {
    if (error instanceof CliError) throw error
    throw failed(`cannot write '${name}': ${(error as Error).message}`, { cause: error })
  } finally {
    source.server.close()
  }
}

/** @throws CliError when there is such a file and it is not to be replaced */
async function refuseToReplace(name: string, force: boolean): Promise<void> {
  if (force) return
  const there = await open(name, 'r').catch(() => undefined)
  await there?.close()
  if (there !== undefined) throw failed(`'${name}' is there already (--force replaces it)`)
}

async function fetchParts(
  source: RemoteImage,
  { file, record }: Draft,
  parts: readonly Part[],
  connections: number,
  options: DownloadOptions,
): Promise<void> {
  const size = lengthOf(parts)
  await file.truncate(size)
  using progress = new TransferProgress('download', size, options.progress)
  if (record?.resumed) progress.resumed(record.bytesBefore)
  const sockets = Array.from({ length: connections }, () => source.server.bodySocket())
  try {
    await eachPiece(pieces(record?.missing(parts) ?? parts), connections, async (part, worker) => {
      if (!part.zero) await fetchPart(source, file, part, sockets[worker])
      progress.did(part.length)
      // Zeroes are there when the file is.
      if (!part.zero) await record?.did(part)
    })
  } finally {
    for (const socket of sockets) socket?.[Symbol.dispose]()
  }
}

async function fetchPart(
  { server, path }: RemoteImage,
  file: FileHandle,
  part: Part,
  socket: BodySocket | undefined,
): Promise<void> {
  const range = `bytes=${part.start}-${part.start + part.length - 1}`
  const reply = await server.get(path, { range }, socket)
  if (reply.status !== 206) throw await server.refusal(reply)
  const length = await store(reply, file, part.start, () => undefined)
  if (length !== part.length)
    throw failed(`the server sent ${length} of ${part.length} bytes from ${part.start} on`)
}

async function fetchWhole(
  { server, path }: RemoteImage,
  file: FileHandle,
  options: DownloadOptions,
): Promise<void> {
  using socket = server.bodySocket()
  const reply = await server.get(path, {}, socket)
  if (reply.status !== 200) throw await server.refusal(reply)
  using progress = new TransferProgress('download', reply.length, options.progress)
  const length = await store(reply, file, 0, (bytes) => progress.did(bytes))
  if (length !== reply.length) throw failed(`the server sent ${length} of ${reply.length} bytes`)
}

/** @returns bytes that came */
async function store(
  { body }: LongReply,
  file: FileHandle,
  start: number,
  did: (bytes: number) => void,
): Promise<number> {
  let at = start
  for await (const parts of body) {
    await writeAll(file, parts, at)
    const length = parts.reduce((sum, part) => sum + part.length, 0)
    at += length
    did(length)
  }
  return at - start
}

async function writeAll(file: FileHandle, parts: readonly Uint8Array[], offset: number): Promise<void> {
  let at = offset
  for (let rest = parts; rest.length > 0; ) {
    let { bytesWritten } = await file.writev(rest, at)
    at += bytesWritten
    const next = rest.findIndex(({ length }) => {
      if (bytesWritten < length) return true
      bytesWritten -= length
      return false
    })
    const [first, ...more] = next < 0 ? [] : rest.slice(next)
    rest = first === undefined ? [] : [first.subarray(bytesWritten), ...more]
  }
}
