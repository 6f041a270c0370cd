// SPDX-License-Identifier: Apache-2.0
// `blockferry create`: makes an empty image, as qemu-img create does.

import { backingImage, checkApart } from './backing-image.js'
import { type CreateOptions, type CreateRequest, createRequest } from './create-request.js'
import { makeImage } from './image-maker.js'
import { lookAtPath } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { withNodes } from './open-nodes.js'

const SECTOR = 512

/** @param size  bytes; undefined: that of the backing file */
export async function create(file: string, size: number | undefined, options: CreateOptions): Promise<void> {
  const request = createRequest(size, options)
  const end = await lookAtPath(file)
  const backing = await backingImage(end.path, request.backing, options.unsafe)
  await withNodes(options, async ({ client }, nodes) => {
    let length = request.size
    if (backing !== undefined) {
      // It must be an image of its format, whatever its size is needed for.
      const node = await nodes.open(backing, 'backing', { readOnly: true, direct: false })
      await checkApart(client, node, backing, end)
      length ??= await sizeOfNode(client, node)
      await nodes.close()
    }
    const whole = Math.ceil((length ?? 0) / SECTOR) * SECTOR
    if (!options.quiet) process.stdout.write(`${summary(file, whole, request)}\n`)
    await makeImage(client, end, request, whole)
  })
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
    value === undefined ? [] : [`${name.replace(/^x-/, '').replaceAll('-', '_')}=${wordOf(value)}`],
  )
  return `Formatting '${file}', ${parts.join(' ')}`
}

function wordOf(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off'
  return String(value)
}
