// SPDX-License-Identifier: Apache-2.0
// `blockferry create`: makes an empty image, as qemu-img create does. The daemon does the work, in one job per file.
// What a failed job leaves behind is removed, unless it was there before.

import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { type Client, type CommandArguments, QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import { type CreateOptions, type CreateRequest, createRequest } from './create-request.js'
import { JobFollower } from './job-follower.js'
import { type End, lookAtPath } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { failed, usage } from './status.js'

const SECTOR = 512

/** @param size  bytes; undefined: that of the backing file */
export async function create(file: string, size: number | undefined, options: CreateOptions): Promise<void> {
  const request = createRequest(size, options)
  const image = await lookAtPath(file)
  const dataFile = request.dataFile === undefined ? undefined : await lookAtPath(request.dataFile)
  const backing = request.backing && resolve(dirname(image.path), request.backing.file)
  if (backing === image.path) throw usage('an image cannot be its own backing file')
  const daemon = await connectOrEmbed(options)
  try {
    const { client } = daemon
    if (backing !== undefined && !options.unsafe) {
      const found = await sizeOfBacking(client, await lookAtPath(backing), request.backing?.format ?? '')
      size = request.size ?? found
    } else size = request.size
    const whole = Math.ceil((size ?? 0) / SECTOR) * SECTOR
    if (!options.quiet) process.stdout.write(`${summary(file, whole, request)}\n`)
    await new Maker(client, image, dataFile).make(whole, request)
  } catch (error) {
    if (error instanceof QmpError) throw failed(error.message, { cause: error })
    throw error
  } finally {
    await daemon.close()
  }
}

class Maker {
  readonly #client: Client
  readonly #image: End
  readonly #dataFile: End | undefined
  /** Files that were not there before. */
  readonly #fresh: string[] = []

  constructor(client: Client, image: End, dataFile: End | undefined) {
    this.#client = client
    this.#image = image
    this.#dataFile = dataFile
  }

  async make(size: number, request: CreateRequest): Promise<void> {
    try {
      if (request.format === 'raw') await this.#makeFile(this.#image, size, request.more)
      else await this.#makeQcow2(size, request)
    } catch (error) {
      for (const path of this.#fresh) await rm(path, { force: true })
      throw error
    }
  }

  async #makeQcow2(size: number, { backing, more }: CreateRequest): Promise<void> {
    for (const end of [this.#image, this.#dataFile]) if (end !== undefined) await this.#makeFile(end, 0, {})
    await this.#job({
      driver: 'qcow2',
      file: leaf(this.#image),
      'data-file': this.#dataFile && leaf(this.#dataFile),
      size,
      'backing-file': backing?.file,
      'backing-fmt': backing?.format,
      ...more,
    })
  }

  /** A device is there already, and has its size. */
  async #makeFile(end: End, size: number, more: CommandArguments): Promise<void> {
    if (end.kind === 'block') return
    await this.#job({ driver: 'file', filename: end.path, size, ...more })
    if (end.kind === 'missing') this.#fresh.push(end.path)
  }

  async #job(options: CommandArguments): Promise<void> {
    const id = `create-${randomBytes(4).toString('hex')}`
    const follower = new JobFollower(this.#client, id, { event() {}, progress() {}, stopped() {} })
    try {
      await this.#client.execute('blockdev-create', { 'job-id': id, options })
    } catch (error) {
      follower.stop()
      throw error
    }
    const { error } = await follower.outcome()
    if (error !== undefined) throw failed(`${this.#image.name}: ${error}`)
  }
}

function leaf(end: End): CommandArguments {
  return { driver: end.kind === 'block' ? 'host_device' : 'file', filename: end.path }
}

/** Opens the backing file, which must be an image of its format. Bytes. */
async function sizeOfBacking(client: Client, backing: End, format: string): Promise<number> {
  const name = `create-${randomBytes(4).toString('hex')}`
  const file = { ...leaf(backing), 'read-only': true }
  await client.execute('blockdev-add', { driver: format, 'node-name': name, 'read-only': true, file })
  try {
    return await sizeOfNode(client, name)
  } finally {
    await client.execute('blockdev-del', { 'node-name': name })
  }
}

function summary(file: string, size: number, { format, backing, dataFile, more }: CreateRequest): string {
  const options: Record<string, unknown> = {
    fmt: format,
    size,
    backing_file: backing?.file,
    backing_fmt: backing?.format,
    data_file: dataFile,
    ...more,
  }
  const parts = Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name.replaceAll('-', '_')}=${String(value)}`],
  )
  return `Formatting '${file}', ${parts.join(' ')}`
}
