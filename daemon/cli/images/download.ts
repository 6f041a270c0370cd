// SPDX-License-Identifier: Apache-2.0
// `blockferry download`: fetches an image from an HTTP server into a new file. What reads as zeroes there becomes holes here
// and is not fetched. Done means that the file is whole and durable; before that it has another name.

import { type FileHandle, open, rename, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CliError, failed } from '../status.js'
import type { HttpReply } from './http.js'
import {
  eachPiece,
  jsonOf,
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
  const draft = `${name}.part`
  let mine = false
  try {
    const file = await made(draft, name, options.force)
    mine = true
    try {
      await fetchAll(source, file, options)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(draft, name)
    await syncFolder(dirname(name))
  } catch (error) {
    if (error instanceof CliError) throw error
    throw failed(`cannot write '${name}': ${(error as Error).message}`, { cause: error })
  } finally {
    source.server.close()
    if (mine) await unlink(draft).catch(() => undefined) // it may have its name by now
  }
}

/** @throws CliError when there is such a file and it is not to be replaced */
async function made(draft: string, name: string, force: boolean): Promise<FileHandle> {
  if (!force) {
    const there = await open(name, 'r').catch(() => undefined)
    await there?.close()
    if (there !== undefined) throw failed(`'${name}' is there already (--force replaces it)`)
  }
  return open(draft, 'w')
}

async function fetchAll(source: RemoteImage, file: FileHandle, options: DownloadOptions): Promise<void> {
  const { features, most } = await source.options('max_readers')
  const parts = features.includes('extents') ? await extentsAt(source) : undefined
  if (parts === undefined) return fetchWhole(source, file, options)
  const size = parts.reduce((sum, { length }) => sum + length, 0)
  await file.truncate(size)
  using progress = new TransferProgress('download', size, options.progress)
  await eachPiece(pieces(parts), Math.min(options.connections, most), async (part) => {
    if (!part.zero) await fetchPart(source, file, part)
    progress.did(part.length)
  })
}

/** undefined: the server cannot tell. */
async function extentsAt({ server, path }: RemoteImage): Promise<Part[] | undefined> {
  const value = jsonOf(await server.text({ method: 'GET', path: `${path}/extents` }))
  if (!Array.isArray(value)) throw failed('the server answers with extents that are no list')
  let end = 0
  return value.map((extent: { start?: unknown; length?: unknown; zero?: unknown }) => {
    const { start, length, zero } = extent
    if (start !== end || typeof length !== 'number' || !Number.isSafeInteger(end + length) || length <= 0)
      throw failed(`the server answers with extents that do not follow each other, at ${end}`)
    end += length
    return { start, length, zero: zero === true }
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
  try {
    for await (const bytes of body as AsyncIterable<Buffer>) {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done)
        done += bytesWritten
      }
      at += bytes.length
      did(bytes.length)
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error
  }
  return at - start
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
