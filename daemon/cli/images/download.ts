// SPDX-License-Identifier: Apache-2.0
// `blockferry download`: fetches an image from an HTTP server into a new file. What reads as zeroes there becomes holes here
// and is not fetched. Done means that the file is whole and durable; before that it has another name (draft.ts).

import { type FileHandle, open } from 'node:fs/promises'
import { CliError, failed } from '../status.js'
import { Draft } from './draft.js'
import type { HttpReply } from './http.js'
import {
  eachPiece,
  lengthOf,
  type Part,
  pieces,
  RemoteImage,
  type TransferOptions,
  TransferProgress,
} from './transfer.js'

/** Bytes that are written at once: a reply comes in pieces of 64 KiB, and each write has its price. */
const AT_ONCE = 2 ** 20

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
  await eachPiece(pieces(record?.missing(parts) ?? parts), connections, async (part) => {
    if (!part.zero) await fetchPart(source, file, part)
    progress.did(part.length)
    // Zeroes are there when the file is.
    if (!part.zero) await record?.did(part)
  })
}

async function fetchPart({ server, path }: RemoteImage, file: FileHandle, part: Part): Promise<void> {
  const range = `bytes=${part.start}-${part.start + part.length - 1}`
  const reply = await server.send({ method: 'GET', path, headers: { range } })
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
  const reply = await server.send({ method: 'GET', path })
  if (reply.status !== 200) throw await server.refusal(reply)
  const size = Number(reply.body.headers['content-length'])
  using progress = new TransferProgress('download', size, options.progress)
  const length = await store(reply, file, 0, (bytes) => progress.did(bytes))
  if (length !== size) throw failed(`the server sent ${length} of ${size} bytes`)
}

/** @returns bytes that came */
async function store(
  { body }: HttpReply,
  file: FileHandle,
  start: number,
  did: (bytes: number) => void,
): Promise<number> {
  let at = start
  let held: Buffer[] = []
  let length = 0
  const write = async () => {
    await writeAll(file, held, at)
    at += length
    did(length)
    held = []
    length = 0
  }
  try {
    for await (const bytes of body as AsyncIterable<Buffer>) {
      held.push(bytes)
      length += bytes.length
      if (length >= AT_ONCE) await write()
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error
  }
  await write()
  return at - start
}

async function writeAll(file: FileHandle, parts: readonly Buffer[], offset: number): Promise<void> {
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
