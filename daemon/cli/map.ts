// SPDX-License-Identifier: Apache-2.0
// `blockferry map`: which ranges of an image hold data and which read as zeroes; members named as qemu-img map names
// them. Asks the daemon in portions, so that an image of a million extents needs no million in one answer.

import { randomBytes } from 'node:crypto'
import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { QmpError } from './client.js'
import { connectOrEmbed } from './connection.js'
import type { Daemon } from './daemon.js'
import { type Format, findImage, type Image, imageDefinition } from './image.js'
import { sizeOfNode } from './node-size.js'
import { failed } from './status.js'
import { table } from './table.js'
import { flagOf, numberOf, objectsOf } from './values.js'

export interface MapOptions {
  readonly format?: Format
  readonly imageOpts: boolean
  readonly forceShare: boolean
  readonly socket?: string
  readonly json: boolean
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
  readonly offset?: number
  readonly compressed: boolean
}

/** Extents asked for at once. */
const portion = 4096

export async function map(name: string, options: MapOptions): Promise<void> {
  const image = await findImage(name, options.format, options.imageOpts)
  const daemon = await connectOrEmbed(options)
  try {
    const extents = await extentsOf(daemon, image, options.forceShare)
    process.stdout.write(options.json ? jsonText(extents) : tableText(extents))
  } catch (error) {
    if (error instanceof QmpError) throw failed(error.message, { cause: error })
    throw error
  } finally {
    await daemon.close()
  }
}

async function extentsOf(daemon: Daemon, image: Image, forceShare: boolean): Promise<MapExtent[]> {
  const { client } = daemon
  const nodeName = `map-${randomBytes(4).toString('hex')}`
  const how = { readOnly: true, direct: false, forceShare }
  const definition = imageDefinition(image, nodeName, how)
  await client.execute('blockdev-add', definition)
  try {
    const size = await sizeOfNode(client, nodeName)
    const extents: MapExtent[] = []
    for (let offset = 0; offset < size; ) {
      const ask = { node: nodeName, offset, length: size - offset, limit: portion }
      const reply = await client.execute('x-node-map', ask)
      const more = objectsOf(reply).map((value) => extentFrom(value, image.format === 'raw'))
      append(extents, more)
      const end = more.at(-1)
      if (end === undefined)
        throw failed(`'${image.end.name}': the daemon tells no extents from ${offset} on`)
      offset = end.start + end.length
    }
    return extents
  } finally {
    await client.execute('blockdev-del', { 'node-name': nodeName }).catch(() => undefined)
  }
}

/** Reads one extent. @param raw  every byte has its place in this layer, at the same offset unless it is told */
function extentFrom(value: JsonObject, raw: boolean): MapExtent {
  const start = numberOf(value, 'offset') ?? 0
  const zero = flagOf(value, 'zero')
  const place = numberOf(value, 'host') ?? (raw ? start : undefined)
  return {
    start,
    length: numberOf(value, 'length') ?? 0,
    depth: numberOf(value, 'depth') ?? 0,
    present: !flagOf(value, 'absent'),
    zero,
    data: !zero,
    ...(place === undefined ? {} : { offset: place }),
    compressed: flagOf(value, 'compressed'),
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

/** One extent per line inside a list, so that both people and line tools can read it. */
export function jsonText(extents: readonly MapExtent[]): string {
  return `[${extents.map((extent) => toText(extent)).join(',\n')}]\n`
}

export function tableText(extents: readonly MapExtent[]): string {
  const rows = extents.map((extent) => [
    String(extent.start),
    String(extent.length),
    kindText(extent),
    String(extent.depth),
    extent.offset === undefined ? '-' : String(extent.offset),
  ])
  return table(['START', 'LENGTH', 'KIND', 'DEPTH', 'OFFSET'], rows, [
    'right',
    'right',
    'left',
    'right',
    'right',
  ])
}

function kindText(extent: MapExtent): string {
  if (!extent.present) return 'absent'
  if (extent.compressed) return 'compressed'
  return extent.zero ? 'zero' : 'data'
}
