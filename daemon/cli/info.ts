// SPDX-License-Identifier: Apache-2.0
// `blockferry info`: what an image is, with its layers if asked. Layouts are those of qemu-img info.

import { dirname, isAbsolute, join } from 'node:path'
import { isJsonName } from '../../protocol/json-name.js'
import type { JsonObject } from '../../protocol/json-value.js'
import type { Client } from './client.js'
import { type Format, findImage, type Image } from './image.js'
import { spread } from './indented.js'
import { humanInfo } from './info-text.js'
import { withNodes } from './open-nodes.js'
import { failed } from './status.js'
import { pathNamed } from './storage.js'
import { asObject, objectsOf, textOf } from './values.js'

export interface InfoOptions {
  readonly output: 'human' | 'json'
  readonly backingChain: boolean
  readonly format?: Format
  readonly imageOpts: boolean
  readonly forceShare: boolean
  readonly socket?: string
  readonly logLevel?: string
}

export async function info(name: string, options: InfoOptions): Promise<void> {
  const image = await findImage(name, options.format, options.imageOpts)
  const layers = await layersOf(image, options)
  if (options.output === 'json') {
    const value = options.backingChain ? layers : (layers[0] ?? {})
    process.stdout.write(`${spread(value)}\n`)
  } else process.stdout.write(layers.map(humanInfo).join('\n'))
}

/** The image as the daemon tells it and, if asked, what is below it; top first. */
async function layersOf(image: Image, options: InfoOptions): Promise<JsonObject[]> {
  const { backingChain, forceShare } = options
  const how = { readOnly: true, direct: false, forceShare, noBacking: !backingChain }
  return await withNodes(options, async ({ client }, nodes) => {
    const name = await nodes.open(image, 'info', how)
    await nodes.look(name)
    const layers = await chainOf(client, name, image)
    return backingChain ? layers : layers.slice(0, 1)
  })
}

/** What the daemon tells of an image that is open, and of those below it; top first. */
export async function chainOf(client: Client, nodeName: string, image: Image): Promise<JsonObject[]> {
  const all = objectsOf(await client.execute('query-named-block-nodes'))
  const top = asObject(all.find((node) => textOf(node, 'node-name') === nodeName)?.image)
  if (top === undefined) throw failed(`'${image.end.name}': the daemon tells nothing of it`)
  const layers: JsonObject[] = []
  // Names are relative to the one that the user gave.
  let filename: string | undefined = image.options === undefined ? shown(image.end.name) : undefined
  for (let layer: JsonObject | undefined = top; layer !== undefined; ) {
    const own = ownPart(layer, filename)
    layers.push(own)
    layer = asObject(layer['backing-image'])
    const below = textOf(own, 'full-backing-filename')
    filename = below === undefined ? undefined : shown(below)
  }
  return layers
}

/** One layer without those below. @param filename  in place of the daemon's, which is absolute */
function ownPart(layer: JsonObject, filename: string | undefined): JsonObject {
  const { 'backing-image': _below, ...own } = layer
  const name = filename ?? textOf(layer, 'filename') ?? ''
  const backing = textOf(layer, 'backing-filename')
  if (backing !== undefined) own['full-backing-filename'] = fromHere(backing, name)
  return { ...own, filename: name }
}

/** As a path, where it is one. */
function shown(name: string): string {
  return isJsonName(name) ? name : pathNamed(name)
}

/** A name that an image has for another one, as it is found from here. */
function fromHere(name: string, image: string): string {
  return isPath(name) && isPath(image) && !isAbsolute(name) ? join(dirname(image), name) : name
}

/** Not `json:…` nor `nbd://…`. */
function isPath(name: string): boolean {
  return !/^[^/]*:/.test(name)
}
