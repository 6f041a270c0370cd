// SPDX-License-Identifier: Apache-2.0
// Whether what a command wants to write is a layer of what it reads: the lock that is refused then is its own. Used for the words
// of an error.

import type { JsonObject } from '../../protocol/json-value.js'
import type { Client } from './client.js'
import { statOf } from './mirror-request.js'
import { isSameStorage } from './same-storage.js'
import type { End } from './storage.js'
import { asObject, objectsOf, textOf } from './values.js'

/** @param node  that is read */
export async function isLayerOf(client: Client, node: string, target: End): Promise<boolean> {
  if (target.kind === 'nbd') return false
  const there = await statOf(target.path)
  if (there === 'missing') return false
  const nodes = objectsOf(await client.execute('query-named-block-nodes'))
  const top = asObject(nodes.find((each) => textOf(each, 'node-name') === node)?.image)
  for (const name of filesOf(top)) {
    const file = await statOf(name).catch(() => 'missing' as const)
    if (file !== 'missing' && (await isSameStorage(file, there))) return true
  }
  return false
}

/** Names of the files that an image and those below it lie in. */
function filesOf(image: JsonObject | undefined): string[] {
  if (image === undefined) return []
  const dataFile = textOf(asObject(asObject(image['format-specific'])?.data), 'data-file')
  const own = [textOf(image, 'filename'), dataFile].filter((name) => name !== undefined)
  return [...own, ...filesOf(asObject(image['backing-image']))]
}
