// SPDX-License-Identifier: Apache-2.0
// Makes an image in a daemon, in one job per file. Used by create and convert. What a failed job leaves behind is removed,
// unless it was there before.

import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import type { Client, CommandArguments } from './client.js'
import type { Format } from './image.js'
import type { BackingFile, DataFile } from './image-options.js'
import { JobFollower } from './job-follower.js'
import { lookAtPath } from './mirror-request.js'
import { failed, usage } from './status.js'
import { type End, storageDefinition } from './storage.js'
import { withCredentials } from './tls.js'

export interface NewImage {
  readonly format: Format
  readonly backing: BackingFile | undefined
  readonly dataFile: DataFile | undefined
  /** For blockdev-create, besides driver, size and files. */
  readonly more: CommandArguments
}

/**
 * @param size  bytes, whole sectors
 * @throws CliError naming the file
 */
export async function makeImage(client: Client, end: End, image: NewImage, size: number): Promise<void> {
  const dataFile = image.dataFile === undefined ? undefined : await lookAtPath(image.dataFile.path)
  if (dataFile?.path === end.path) throw usage('an image cannot be its own data file')
  const fresh: string[] = []
  const make = async (file: End, length: number, more: CommandArguments) => {
    await runCreate(client, file.name, { driver: 'file', filename: file.path, size: length, ...more })
    if (file.kind === 'missing') fresh.push(file.path)
  }
  try {
    if (image.format === 'raw') {
      // A device or an export is there already, and has its size.
      if (end.kind !== 'block' && end.kind !== 'nbd') await make(end, size, image.more)
      return
    }
    // What is there is emptied by the job that makes the image, when it has found nothing wrong with the options.
    for (const file of [end, dataFile]) if (file?.kind === 'missing') await make(file, 0, {})
    const options = {
      driver: 'qcow2',
      file: storageDefinition(end),
      'data-file':
        dataFile && storageDefinition({ ...dataFile, path: image.dataFile?.name ?? dataFile.path }),
      'x-data-file-cleared': dataFile && true,
      size,
      'backing-file': image.backing?.file,
      'backing-fmt': image.backing?.format,
      ...image.more,
    }
    const ends = dataFile === undefined ? [end] : [end, dataFile]
    await withCredentials(client, ends, () => runCreate(client, end.name, options))
  } catch (error) {
    for (const path of fresh) await rm(path, { force: true })
    throw error
  }
}

async function runCreate(client: Client, name: string, options: CommandArguments): Promise<void> {
  const id = `create-${randomBytes(4).toString('hex')}`
  const tell = { event: () => undefined, progress: () => undefined, stopped: () => undefined }
  const follower = new JobFollower(client, id, tell, 'query-jobs')
  try {
    await client.execute('blockdev-create', { 'job-id': id, options })
    const { kind, error } = await follower.outcome()
    if (kind !== 'completed') throw failed(`cannot make '${name}': ${error ?? 'cancelled'}`)
  } finally {
    follower.stop()
  }
}
