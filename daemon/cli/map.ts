// SPDX-License-Identifier: Apache-2.0
// `blockferry map`: which ranges of an image hold data and which read as zeroes, printed as qemu-img map does. Asks the daemon in portions, so that an image of a million extents needs no million in one answer.

import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import type { Client } from './client.js'
import { type Format, findImage, type Image } from './image.js'
import { chainOf } from './info.js'
import { sizeOfNode } from './node-size.js'
import { withNodes } from './open-nodes.js'
import { failed, usage } from './status.js'
import { asObject, flagOf, numberOf, objectsOf, textOf } from './values.js'

export interface MapOptions {
  readonly format?: Format
  readonly imageOpts: boolean
  readonly forceShare: boolean
  readonly socket?: string
  readonly json: boolean
  readonly output?: 'human' | 'json'
  readonly logLevel?: string
}

/** One line of the map. Bytes; `offset` is the place in the file, `depth` the layer counted from the top. */
export interface MapExtent {
  readonly start: number
  readonly length: number
  readonly depth: number
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly compressed: boolean
  readonly offset?: number
}

/** Extents asked for at once. */
const portion = 4096

export async function map(name: string, options: MapOptions): Promise<void> {
  if (options.json && options.output === 'human') throw usage('--json and --output=human exclude each other')
  const image = await findImage(name, options.format, options.imageOpts)
  await withNodes(options, async ({ client }, nodes) => {
    const how = { readOnly: true, direct: false, forceShare: options.forceShare }
    const node = await nodes.open(image, 'map', how)
    await nodes.look(node)
    const extents = await extentsOf(client, node, image)
    if (options.json || options.output === 'json') process.stdout.write(jsonText(extents))
    else {
      const { text, complete } = humanText(extents, (await chainOf(client, node, image)).map(storageOf))
      process.stdout.write(text)
      if (!complete) throw failed('File contains external, encrypted or compressed clusters.')
    }
  })
}

export async function extentsOf(client: Client, node: string, image: Image): Promise<MapExtent[]> {
  const extents: MapExtent[] = []
  for await (const more of extentPortions(client, node, image)) append(extents, more)
  return extents
}

/** The extents of all of an image, some thousand after the other; the border of two portions may cut one. */
export async function* extentPortions(
  client: Client,
  node: string,
  image: Image,
): AsyncGenerator<MapExtent[]> {
  const size = await sizeOfNode(client, node)
  for (let offset = 0; offset < size; ) {
    const reply = await client.execute('x-node-map', { node, offset, length: size - offset, limit: portion })
    const more = objectsOf(reply).map((value) => extentFrom(value, image.format === 'raw'))
    const end = more.at(-1)
    if (end === undefined) throw failed(`'${image.end.name}': the daemon tells no extents from ${offset} on`)
    yield more
    offset = end.start + end.length
  }
}

/** The file in which the data of a layer lies. */
function storageOf(layer: JsonObject): string {
  const dataFile = textOf(asObject(asObject(layer['format-specific'])?.data), 'data-file')
  return dataFile ?? textOf(layer, 'filename') ?? ''
}

/** Reads one extent. @param raw  every byte has its place in this layer, at the same offset unless it is told */
function extentFrom(value: JsonObject, raw: boolean): MapExtent {
  const start = numberOf(value, 'offset') ?? 0
  const zero = flagOf(value, 'zero')
  const depth = numberOf(value, 'depth') ?? 0
  // Stored nowhere and no zeroes: a bit of a bitmap that was asked for in place of what is allocated.
  const set = !zero && depth === 0 && value.allocated === false
  const place = numberOf(value, 'host') ?? (raw && !set ? start : undefined)
  return {
    start,
    length: numberOf(value, 'length') ?? 0,
    depth,
    present: !set && !flagOf(value, 'absent'),
    zero,
    data: (!zero || flagOf(value, 'hole')) && !set,
    compressed: flagOf(value, 'compressed'),
    ...(place === undefined ? {} : { offset: place }),
  }
}

/** Adds extents at the end; an extent cut by the border of two portions becomes one again. */
export function append(extents: MapExtent[], more: readonly MapExtent[]): void {
  for (const next of more) {
    const last = extents.at(-1)
    if (last !== undefined && continues(last, next)) {
      extents[extents.length - 1] = { ...last, length: last.length + next.length }
    } else extents.push(next)
  }
}

function continues(last: MapExtent, next: MapExtent): boolean {
  const same =
    last.depth === next.depth &&
    last.present === next.present &&
    last.zero === next.zero &&
    last.data === next.data &&
    last.compressed === next.compressed
  const place = last.offset === undefined ? undefined : last.offset + last.length
  return same && last.start + last.length === next.start && place === next.offset
}

/** One extent per line inside a list, spaced as `qemu-img map --output=json` does. */
export function jsonText(extents: readonly MapExtent[]): string {
  const lines = extents.map((extent) => `{ ${toText(extent).slice(1)}`)
  return `[${lines.join(',\n')}]\n`
}

/**
 * What holds data and where, as `qemu-img map` prints it.
 * @param files  of each layer
 * @returns complete: false when it ends at data that have no place of their own
 */
export function humanText(
  extents: readonly MapExtent[],
  files: readonly string[],
): { text: string; complete: boolean } {
  const data = extents.filter(({ data, zero }) => data && !zero)
  const nowhere = data.findIndex((extent) => extent.offset === undefined)
  const placed = nowhere < 0 ? data : data.slice(0, nowhere)
  const rows = placed.map(({ start, length, offset, depth }) =>
    row(hex(start), hex(length), hex(offset ?? 0), files[depth] ?? ''),
  )
  const text = row('Offset', 'Length', 'Mapped to', 'File') + rows.join('')
  return { text, complete: nowhere < 0 }
}

function row(start: string, length: string, place: string, file: string): string {
  return `${start.padEnd(16)}${length.padEnd(16)}${place.padEnd(16)}${file}\n`
}

function hex(number: number): string {
  return number === 0 ? '0' : `0x${number.toString(16)}`
}
