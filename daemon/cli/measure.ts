// SPDX-License-Identifier: Apache-2.0
// `blockferry measure`: how many bytes a new image takes, empty or converted from another, printed as qemu-img measure does. No data
// are read: what the image tells of its extents and bitmaps is enough.

import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { clusterProblem, type Geometry, refcountProblem } from '../../protocol/qcow2/image-clusters.js'
import {
  type MeasuredBitmap,
  measureBitmaps,
  measureImage,
  TouchedClusters,
} from '../../protocol/qcow2/measure.js'
import type { Client } from './client.js'
import { type Format, findSource, type Image, type SourceOptions } from './image.js'
import { imageOptions } from './image-options.js'
import { spread } from './indented.js'
import { chainOf } from './info.js'
import { extentPortions } from './map.js'
import { sizeOfNode } from './node-size.js'
import { type OpenNodes, withNodes } from './open-nodes.js'
import { failed, usage } from './status.js'
import { asObject, numberOf, objectsOf, textOf } from './values.js'

const SECTOR = 512
const CLUSTER = 65536
const REFCOUNT_BITS = 16

export interface MeasureOptions extends SourceOptions {
  /** Bytes of the disk, in place of an image. */
  readonly size?: number
  readonly targetFormat: Format
  /** Each a list of name=value. */
  readonly options: readonly string[]
  readonly forceShare: boolean
  readonly json: boolean
  readonly output?: 'human' | 'json'
  readonly socket?: string
  readonly logLevel?: string
}

/** What the new image is to be. */
type Target = { readonly format: 'raw' } | Qcow2Target

interface Qcow2Target {
  readonly format: 'qcow2'
  /** But for the size. */
  readonly geometry: Omit<Geometry, 'size'>
  /** Its data have storage from the start. */
  readonly preallocated: boolean
  /** It is a layer above another image. */
  readonly backing: boolean
}

/** Bytes; `bitmaps` where both images may have some. */
interface Sizes {
  readonly required: number
  readonly fullyAllocated: number
  readonly bitmaps?: number
}

/** @throws CliError */
export async function measure(name: string | undefined, options: MeasureOptions): Promise<void> {
  if (options.json && options.output === 'human') throw usage('--json and --output=human exclude each other')
  const target = targetOf(options.targetFormat, options.options)
  const sizes = name === undefined ? ofSize(emptySize(options), target) : await ofImage(name, target, options)
  process.stdout.write(options.json || options.output === 'json' ? jsonText(sizes) : humanText(sizes))
}

/** @throws CliError (usage) */
function emptySize({ size, format, imageOpts, snapshot }: MeasureOptions): number {
  if (size === undefined) throw usage('expected an image, or --size')
  if (format !== undefined || imageOpts || snapshot !== undefined)
    throw usage('-f, --image-opts and -l say how an image is read, but there is only --size')
  return size
}

/** @throws CliError (usage) for options that no image has */
function targetOf(format: Format, texts: readonly string[]): Target {
  const { size, backing, more } = imageOptions(format, texts)
  if (size !== undefined) throw usage(`'size' is not for -o of measure: it is that of the image, or --size`)
  const preallocation = more.preallocation ?? 'off'
  const modes = format === 'raw' ? ['off', 'falloc', 'full'] : ['off', 'metadata', 'falloc', 'full']
  if (!modes.includes(String(preallocation)))
    throw usage(`'preallocation' is one of ${modes.join(', ')}, found '${preallocation}'`)
  if (format === 'raw') {
    if (backing !== undefined) throw usage("backing file not supported for file format 'raw'")
    return { format }
  }
  const geometry = {
    version: more.version === 'v2' ? 2 : 3,
    clusterSize: Number(more['cluster-size'] ?? CLUSTER),
    refcountBits: Number(more['refcount-bits'] ?? REFCOUNT_BITS),
    extendedL2: more['extended-l2'] === true,
  } as const
  const problem = clusterProblem({ ...geometry, size: 0 }) ?? refcountProblem({ ...geometry, size: 0 })
  if (problem !== undefined) throw usage(problem)
  const preallocated = preallocation === 'falloc' || preallocation === 'full'
  return { format, geometry, preallocated, backing: backing !== undefined }
}

/** An empty image. */
function ofSize(size: number, target: Target): Sizes {
  if (target.format === 'raw') return ofRaw(Math.ceil(size / SECTOR) * SECTOR)
  return ofQcow2(size, target, target.preallocated ? undefined : 0)
}

async function ofImage(name: string, target: Target, options: MeasureOptions): Promise<Sizes> {
  if (options.size !== undefined) throw usage('an image and --size exclude each other')
  const image = await findSource(name, options)
  return await withNodes(options, async ({ client }, nodes) => {
    const how = { readOnly: true, direct: false, forceShare: options.forceShare }
    const node = await nodes.open(image, 'measure', how)
    await nodes.look(node)
    const size = await sizeOfNode(client, node)
    if (target.format === 'raw') return ofRaw(size)
    // Nobody knows how much of it reads alike from the backing file.
    const all = target.backing || target.preallocated
    const data = all ? undefined : await dataOf(client, node, image, target.geometry.clusterSize)
    return { ...ofQcow2(size, target, data), ...ofBitmaps(await diskOf(client, nodes, node, image), target) }
  })
}

/** Holes count: the file of a raw image is as long as its disk. */
function ofRaw(size: number): Sizes {
  return { required: size, fullyAllocated: size }
}

/** @param data  clusters that hold some; undefined: all */
function ofQcow2(size: number, { geometry }: Qcow2Target, data: number | undefined): Sizes {
  const sizes = measureImage({ ...geometry, size }, data)
  if (sizes === undefined) throw failed('The image size is too large (try using a larger cluster size)')
  return sizes
}

/** Clusters of a new image that get data. What reads as zero gets none, be it stored or not. */
async function dataOf(client: Client, node: string, image: Image, clusterSize: number): Promise<number> {
  const touched = new TouchedClusters(clusterSize)
  for await (const extents of extentPortions(client, node, image))
    for (const { start, length, data, zero } of extents) if (data && !zero) touched.add(start, length)
  return touched.count
}

/** What the daemon tells of the image; bitmaps are of its disk, whatever snapshot of it is measured. */
async function diskOf(
  client: Client,
  nodes: OpenNodes,
  node: string,
  { snapshot, ...disk }: Image,
): Promise<JsonObject | undefined> {
  const how = { readOnly: true, direct: false, forceShare: true, noBacking: true }
  const name = snapshot === undefined ? node : await nodes.open(disk, 'measure-disk', how)
  return (await chainOf(client, name, disk))[0]
}

/** @param disk  what the daemon tells of the image */
function ofBitmaps(disk: JsonObject | undefined, { geometry }: Qcow2Target): Pick<Sizes, 'bitmaps'> {
  const specific = asObject(asObject(disk?.['format-specific'])?.data)
  // Images of the old version have none, and raw ones nothing of the kind.
  if (textOf(specific, 'compat') !== '1.1' || geometry.version === 2) return {}
  const bitmaps = objectsOf(specific?.bitmaps).map(
    (one): MeasuredBitmap => ({
      name: textOf(one, 'name') ?? '',
      granularity: numberOf(one, 'granularity') ?? CLUSTER,
    }),
  )
  return { bitmaps: measureBitmaps(bitmaps, numberOf(disk, 'virtual-size') ?? 0, geometry.clusterSize) }
}

function humanText({ required, fullyAllocated, bitmaps }: Sizes): string {
  // Of the largest disks they need more digits than a number prints.
  const lines = [`required size: ${toText(required)}`, `fully allocated size: ${toText(fullyAllocated)}`]
  if (bitmaps !== undefined) lines.push(`bitmaps size: ${toText(bitmaps)}`)
  return lines.map((line) => `${line}\n`).join('')
}

function jsonText({ required, fullyAllocated, bitmaps }: Sizes): string {
  return `${spread({ ...(bitmaps !== undefined && { bitmaps }), required, 'fully-allocated': fullyAllocated })}\n`
}
