// SPDX-License-Identifier: Apache-2.0
// What uploads and downloads have in common: an image on a server, pieces of extents, many pieces under way, progress.

import { formatSize } from '../../common/units.js'
import type { Progress } from '../job-follower.js'
import { type Reporter, reporter } from '../reporter.js'
import { failed, usage } from '../status.js'
import { HttpServer } from './http.js'

/** Bytes of one request that carries data, at most. */
export const PIECE = 8 * 2 ** 20
/** Bytes of one request that zeroes. */
const ZERO_PIECE = 2 ** 30

export interface TransferOptions {
  readonly connections: number
  readonly ca?: string
  readonly progress: boolean
}

/** A range of an image, bytes. */
export interface Part {
  readonly start: number
  readonly length: number
  readonly zero: boolean
}

/** What the server told of the image. */
export interface Offered {
  readonly features: readonly string[]
  readonly most: number
}

/** An image on a server, by its URL. */
export class RemoteImage {
  readonly server: HttpServer
  readonly path: string

  private constructor(server: HttpServer, path: string) {
    this.server = server
    this.path = path
  }

  static async at(text: string, { connections, ca }: TransferOptions): Promise<RemoteImage> {
    if (!URL.canParse(text)) throw usage(`expected the URL of an image, found '${text}'`)
    const url = new URL(text)
    return new RemoteImage(await HttpServer.at(url, connections, ca), url.pathname)
  }

  /** @param limit  of the two, which counts */
  async options(limit: 'max_readers' | 'max_writers'): Promise<Offered> {
    const value = jsonOf(await this.server.text({ method: 'OPTIONS', path: this.path }))
    const { features, [limit]: most = 1 } = value as { features?: unknown; [limit: string]: unknown }
    return {
      features: Array.isArray(features) ? features.map(String) : [],
      most: typeof most === 'number' && most > 0 ? most : 1,
    }
  }

  /** Of all of it. undefined: the server cannot tell. @throws CliError */
  async extents(features: readonly string[]): Promise<readonly Part[] | undefined> {
    if (!features.includes('extents')) return undefined
    const value = jsonOf(await this.server.text({ method: 'GET', path: `${this.path}/extents` }))
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

  async patch(change: object): Promise<void> {
    await this.server.text({ method: 'PATCH', path: this.path, body: JSON.stringify(change) })
  }
}

export function lengthOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0)
}

/** @throws CliError */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw failed('the server answers with something that is no JSON', { cause: error })
  }
}

/** Neighbours that are alike as one, then cut to what one request does. */
export function* pieces(parts: Iterable<Part>): Generator<Part> {
  for (const { start, length, zero } of merged(parts)) {
    const most = zero ? ZERO_PIECE : PIECE
    for (let done = 0; done < length; done += most)
      yield { start: start + done, length: Math.min(most, length - done), zero }
  }
}

function* merged(parts: Iterable<Part>): Generator<Part> {
  let last: Part | undefined
  for (const part of parts) {
    if (last !== undefined && last.zero === part.zero && last.start + last.length === part.start)
      last = { ...last, length: last.length + part.length }
    else {
      if (last !== undefined) yield last
      last = part
    }
  }
  if (last !== undefined) yield last
}

/**
 * Works on all pieces, `atOnce` of them at once; the first error ends it when those under way have ended.
 * @param work  one piece; its second argument is below `atOnce` and nobody else's meanwhile
 */
export async function eachPiece(
  all: Iterable<Part>,
  atOnce: number,
  work: (part: Part, worker: number) => Promise<void>,
): Promise<void> {
  const next = all[Symbol.iterator]()
  let error: unknown
  const worker = async (_: unknown, index: number) => {
    for (;;) {
      const { value, done } = next.next()
      if (done === true || error !== undefined) return
      await work(value, index).catch((why: unknown) => {
        error ??= why
      })
    }
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
  if (error !== undefined) throw error
}

/** Tells how far a transfer is. */
export class TransferProgress implements Disposable {
  readonly #reporter: Reporter
  readonly #phase: string
  readonly #length: number
  readonly #started = performance.now()
  #done = 0
  #before = 0

  constructor(phase: string, length: number, progress: boolean) {
    this.#phase = phase
    this.#length = length
    this.#reporter = reporter({ json: false, progress })
  }

  did(bytes: number): void {
    this.#done += bytes
    const rate = this.#done / Math.max(0.001, (performance.now() - this.#started) / 1000)
    const offset = this.#before + this.#done
    const progress: Progress = {
      ...{ status: 'running', phase: this.#phase, offset, length: this.#length, rate },
      ...{ ioStatus: 'ok', etaSeconds: (this.#length - offset) / Math.max(1, rate) },
    }
    this.#reporter.progress(progress)
  }

  /** So much was there already: it goes on from an earlier run. */
  resumed(bytes: number): void {
    this.#before = bytes
    this.#reporter.note(`going on from an earlier ${this.#phase}: ${formatSize(bytes)} of it are done`)
  }

  [Symbol.dispose](): void {
    this.#reporter.end()
  }
}
