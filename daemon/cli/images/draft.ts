// SPDX-License-Identifier: Apache-2.0
// The file of a download until it is whole: NAME.part, and what of it is done in NAME.part.done. Used by download.ts.
// What was cut off stays for a later run, which goes on with it when the source is as it was: the server says that it has
// the same size and the same zeroes, and in the end that its checksum is the file's.

import { createHash } from 'node:crypto'
import { type FileHandle, open, rename, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { failed } from '../status.js'
import { type About, DoneRecord, rangesIn, removeRecord } from './done-record.js'
import { sameContent } from './same-content.js'
import { lengthOf, type Part, type RemoteImage } from './transfer.js'

export class Draft {
  readonly file: FileHandle
  /** undefined: it cannot be gone on with. */
  readonly record: DoneRecord | undefined
  readonly #name: string
  readonly #size: number
  #fate: 'unknown' | 'finished' | 'useless' = 'unknown'

  private constructor(name: string, size: number, file: FileHandle, record: DoneRecord | undefined) {
    this.#name = name
    this.#size = size
    this.file = file
    this.record = record
  }

  /** Of an image of which nothing is known before it is here. */
  static async anew(name: string): Promise<Draft> {
    const file = await open(partOf(name), 'w')
    await removeRecord(recordOf(name))
    return new Draft(name, 0, file, undefined)
  }

  /** One that an earlier run left is used again where that is right. */
  static async of(
    name: string,
    url: string,
    parts: readonly Part[],
    features: readonly string[],
  ): Promise<Draft> {
    // Without checksums nobody would notice that the image has changed.
    if (!features.includes('checksum')) return Draft.anew(name)
    const size = lengthOf(parts)
    const about: About = { url: digest(url), size, extents: digest(JSON.stringify(parts)) }
    const before = await rangesIn(recordOf(name), about)
    const left = before.length > 0 ? await leftOver(name, size) : undefined
    const file = left ?? (await open(partOf(name), 'w'))
    try {
      const done = left === undefined ? [] : before
      return new Draft(
        name,
        size,
        file,
        await DoneRecord.open(recordOf(name), about, done, () => file.datasync()),
      )
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** The file gets its name. @throws CliError when it is not what the server has */
  async finish(source: RemoteImage): Promise<void> {
    const [part, name] = [partOf(this.#name), this.#name]
    await this.file.sync()
    if (this.record?.resumed && !(await sameContent(source, part, this.#size))) {
      this.#fate = 'useless'
      throw failed(`the image has changed since its download was begun: run it again to fetch all of it`)
    }
    await rename(part, name)
    this.#fate = 'finished'
    await syncFolder(dirname(name))
  }

  /** What a later run can use stays, as far as it can be made durable now. */
  async leave(): Promise<void> {
    const { record } = this
    if (this.#fate === 'unknown') await record?.save().catch(() => undefined) // then less of it counts
    await record?.close()
    await this.file.close()
    if (this.#fate === 'unknown' && record?.worth) return
    if (this.#fate !== 'finished') await unlink(partOf(this.#name)).catch(() => undefined) // another run's end
    await removeRecord(recordOf(this.#name))
  }
}

/** What an earlier run left, when it has the size. */
async function leftOver(name: string, size: number): Promise<FileHandle | undefined> {
  const file = await open(partOf(name), 'r+').catch(() => undefined)
  if (file === undefined || (await file.stat()).size === size) return file
  await file.close()
  return undefined
}

function partOf(name: string): string {
  return `${name}.part`
}

function recordOf(name: string): string {
  return `${name}.part.done`
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
