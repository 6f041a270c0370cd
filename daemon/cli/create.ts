// SPDX-License-Identifier: Apache-2.0
// `blockferry create`: makes an empty image, as qemu-img create does.

import { dirname, resolve } from 'node:path'
import { type CreateOptions, type CreateRequest, createRequest } from './create-request.js'
import { formats, type Image } from './image.js'
import { makeImage } from './image-maker.js'
import { lookAtImage, lookAtPath } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { withNodes } from './open-nodes.js'
import { failed, usage } from './status.js'
import { exportNamed } from './storage.js'

const SECTOR = 512

/** @param size  bytes; undefined: that of the backing file */
export async function create(file: string, size: number | undefined, options: CreateOptions): Promise<void> {
  const request = createRequest(size, options)
  const end = await lookAtPath(file)
  const backing = await backingImage(end.path, request, options)
  await withNodes(options, async ({ client }, nodes) => {
    let length = request.size
    if (backing !== undefined) {
      // It must be an image of its format, whatever its size is needed for.
      const node = await nodes.open(backing, 'backing', { readOnly: true, direct: false })
      length ??= await sizeOfNode(client, node)
      await nodes.close()
    }
    const whole = Math.ceil((length ?? 0) / SECTOR) * SECTOR
    if (!options.quiet) process.stdout.write(`${summary(file, whole, request)}\n`)
    await makeImage(client, end, request, whole)
  })
}

/** The image below the new one, unless nobody is to look at it. */
async function backingImage(
  image: string,
  { backing }: CreateRequest,
  { unsafe }: CreateOptions,
): Promise<Image | undefined> {
  if (backing === undefined) return undefined
  if (exportNamed(backing.file) !== undefined)
    throw failed(
      `'${backing.file}' cannot be a backing file: images on NBD servers are not looked for by name`,
    )
  const path = resolve(dirname(image), backing.file)
  if (path === image) throw usage('an image cannot be its own backing file')
  if (unsafe) return undefined
  const format = formats.find((one) => one === backing.format)
  if (format === undefined)
    throw usage(`cannot open backing file '${backing.file}': Unknown driver '${backing.format}'`)
  return { end: await lookAtImage(path), format, guessed: false }
}

function summary(file: string, size: number, { format, backing, dataFile, more }: CreateRequest): string {
  const options: Record<string, unknown> = {
    fmt: format,
    size,
    backing_file: backing?.file,
    backing_fmt: backing?.format,
    data_file: dataFile?.path,
    ...more,
  }
  const parts = Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name.replaceAll('-', '_')}=${String(value)}`],
  )
  return `Formatting '${file}', ${parts.join(' ')}`
}
