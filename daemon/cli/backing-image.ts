// SPDX-License-Identifier: Apache-2.0
// The image below a new one: found where the new one will look for it, and looked at before anything is made. Used by
// create and convert.

import { dirname, resolve } from 'node:path'
import { isJsonName } from '../../protocol/json-name.js'
import { ENOENT, errnoText } from '../common/errno.js'
import type { Client } from './client.js'
import { formats, type Image } from './image.js'
import type { BackingFile } from './image-options.js'
import { chainOf } from './info.js'
import { lookAtImage, statOf } from './mirror-request.js'
import { isSameStorage } from './same-storage.js'
import { failed, usage } from './status.js'
import { type End, exportNamed, pathNamed } from './storage.js'

/**
 * @param image   path of the new one
 * @param unsafe  nobody is to look at it
 * @throws CliError
 */
export async function backingImage(
  image: string,
  backing: BackingFile | undefined,
  unsafe = false,
): Promise<Image | undefined> {
  if (backing === undefined) return undefined
  if (exportNamed(backing.file) !== undefined)
    throw failed(
      `'${backing.file}' cannot be a backing file: images on NBD servers are not looked for by name`,
    )
  if (isJsonName(backing.file)) {
    if (unsafe) return undefined
    throw failed(`'${backing.file}' cannot be a backing file here: it is looked for by its path`)
  }
  const path = pathNamed(backing.file)
  // With `file:` a name is no path from the image's folder.
  const found = path === backing.file ? resolve(dirname(image), path) : resolve(path)
  if (found === image) throw usage('an image cannot be its own backing file')
  if (unsafe) return undefined
  const format = formats.find((one) => one === backing.format)
  if (format === undefined)
    throw usage(`cannot open backing file '${backing.file}': Unknown driver '${backing.format}'`)
  if ((await statOf(found)) === 'missing')
    throw failed(`cannot open backing file '${backing.file}' of '${image}': ${errnoText(ENOENT)}`)
  return { end: await lookAtImage(found), format, guessed: false }
}

/**
 * The new image would replace what it is to lie above.
 * @param node  that shows the backing image
 * @throws CliError when the new one is the backing image, or below it
 */
export async function checkApart(client: Client, node: string, backing: Image, target: End): Promise<void> {
  if (target.kind === 'nbd') return
  const there = await statOf(target.path)
  if (there === 'missing') return
  for (const { filename } of await chainOf(client, node, backing)) {
    const layer =
      typeof filename === 'string' ? await statOf(filename).catch(() => 'missing' as const) : 'missing'
    if (layer === 'missing' || !(await isSameStorage(layer, there))) continue
    throw failed(
      `'${target.name}' cannot lie above '${backing.end.name}', which needs it: '${String(filename)}'`,
    )
  }
}
