// SPDX-License-Identifier: Apache-2.0
// `blockferry convert`: a mirror whose target is made as options say (format, layout, compression), under the names
// that qemu-img convert has for them.

import { stat } from 'node:fs/promises'
import { isJsonName } from '../../protocol/json-name.js'
import { backingImage, checkApart } from './backing-image.js'
import { type CacheMode, isDirect, isUnsafe } from './cache-modes.js'
import { type CopyTools, runCopy } from './copy-run.js'
import { addImage, type Format, findImage, findSource, type Image } from './image.js'
import { makeImage, type NewImage } from './image-maker.js'
import { backingOf, dataFileOf, imageOptions } from './image-options.js'
import { startTarget, tooSmall } from './mirror.js'
import { checkNamed, type Ends, lookAt, type MirrorOptions } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { usage } from './status.js'
import type { End } from './storage.js'

const MiB = 1048576

export interface ConvertOptions {
  readonly format?: Format
  readonly targetFormat?: Format
  readonly imageOpts: boolean
  /** Internal snapshot of the source to copy, in place of its disk. */
  readonly snapshot?: string
  readonly compress: boolean
  /** 0: zeroes take up storage. */
  readonly sparse?: number
  /** The target is there. */
  readonly existing: boolean
  readonly targetIsZero: boolean
  readonly options: readonly string[]
  readonly backing?: string
  readonly backingFormat?: string
  /** Pieces of 1 MiB in flight. */
  readonly tasks?: number
  readonly rate?: number
  readonly cache: CacheMode
  readonly sourceCache: CacheMode
  readonly progress: boolean
  readonly quiet: boolean
  readonly forceShare: boolean
  readonly aio?: 'auto' | 'threads' | 'io_uring'
  readonly socket?: string
  readonly logLevel?: string
}

/** @throws CliError for every end but success */
export async function convert(
  sourceName: string,
  targetName: string,
  options: ConvertOptions,
): Promise<void> {
  checkNamed(sourceName, targetName)
  const { existing } = options
  const there =
    existing && isJsonName(targetName) ? await findImage(targetName, options.targetFormat) : undefined
  const targetFormat = there?.format ?? options.targetFormat ?? 'raw'
  check(options, targetFormat)
  const source = await findSource(sourceName, options)
  const ends = await lookAt(source.end, there?.end ?? targetName, { existing, sameSize: false })
  const image = existing ? undefined : newImage(options)
  if (image?.dataFile !== undefined)
    await lookAt(source.end, image.dataFile.path, { existing: false, sameSize: false })
  const mirror = mirrorOptions(options, ends.target, image)
  const plain =
    targetFormat === 'raw' &&
    !isUnsafe(options.cache) &&
    !options.compress &&
    options.sparse !== 0 &&
    options.options.length === 0
  // What is there may be larger, which is not for the daemon's own way to open files.
  const start = (tools: CopyTools) =>
    plain && there === undefined && !(existing && ends.target.kind === 'file')
      ? startTarget(ends, mirror, tools, 'mirror')
      : new Target({ ends, options, image, there }, tools).start()
  const words = { verb: 'convert', done: 'converted', quiet: options.quiet }
  await runCopy({ ...words, source, target: ends.target, options: mirror, start }, undefined)
}

/** @param targetFormat  of the target, by its name or by -O */
function check(options: ConvertOptions, targetFormat: Format): void {
  const { compress, existing, backing, targetIsZero, sparse } = options
  if (compress && targetFormat !== 'qcow2')
    throw usage(`images of format '${targetFormat}' cannot be compressed`)
  if (compress && sparse === 0) throw usage('-c and -S 0 exclude each other')
  if (targetIsZero && !existing) throw usage('--target-is-zero requires use of -n flag')
  if (existing && options.options.length > 0)
    throw usage('-o makes a new image, -n keeps the one that is there')
  if (!existing || backing === undefined) return
  if (targetFormat !== 'qcow2') throw usage(`images of format '${targetFormat}' have no backing file`)
  if (targetIsZero) throw usage('--target-is-zero cannot be used when the destination has a backing file')
  if (sparse === 0) throw usage('-S 0 cannot be used when the destination has a backing file')
}

/** @throws CliError (usage) */
function newImage(options: ConvertOptions): NewImage {
  const { targetFormat: format = 'raw', sparse } = options
  const { size, more, ...given } = imageOptions(format, options.options)
  if (size !== undefined) throw usage(`'size' is not for -o of convert: a copy is as long as its source`)
  const backing = backingOf(
    format,
    options.backing ?? given.backing,
    options.backingFormat ?? given.backingFormat,
    options.socket,
  )
  if (backing !== undefined && sparse === 0)
    throw usage('-S 0 cannot be used when the destination has a backing file')
  const dataFile = dataFileOf(given.dataFile, options.socket)
  if (dataFile !== undefined && options.compress)
    throw usage('an image with a data file cannot be compressed')
  // Zeroes that take up storage: all of the target does from the beginning.
  return { format, backing, dataFile, more: { ...(sparse === 0 && { preallocation: 'falloc' }), ...more } }
}

/** @param image  to be made; undefined: the target is there */
function mirrorOptions(options: ConvertOptions, target: End, image: NewImage | undefined): MirrorOptions {
  const { tasks, rate, sparse, forceShare, existing, targetIsZero, targetFormat, progress } = options
  const { aio, socket, logLevel } = options
  return {
    ...(targetFormat === undefined ? {} : { targetFormat }),
    ...(tasks === undefined ? {} : { bufSize: tasks * MiB }),
    ...(rate === undefined ? {} : { speed: rate }),
    ...(sparse === undefined || sparse === 0 ? {} : { sparse }),
    ...(aio === undefined ? {} : { aio }),
    ...(socket === undefined ? {} : { socket }),
    ...(logLevel === undefined ? {} : { logLevel }),
    ...((image === undefined ? options.backing : image.backing) === undefined ? {} : { sync: 'top' }),
    // One way for both ends: the page cache only where it was asked for at both.
    ...(isDirect(options.cache) || isDirect(options.sourceCache) ? {} : { direct: false }),
    unmap: options.sparse !== 0,
    onSourceError: 'report',
    onTargetError: 'report',
    json: false,
    // What was made in a new file reads as zero, also where it was preallocated and is to stay so.
    targetIsZero: targetIsZero || (image !== undefined && image.backing === undefined && isMadeAnew(target)),
    ...{ forceShare, existing, progress },
  }
}

/** Devices and exports keep what they held. */
function isMadeAnew({ kind }: End): boolean {
  return kind === 'file' || kind === 'missing'
}

/** What the target is to be. */
interface Plan {
  readonly ends: Ends
  readonly options: ConvertOptions
  /** To be made; undefined: the target is there. */
  readonly image: NewImage | undefined
  /** The target that is there, where options name it. */
  readonly there: Image | undefined
}

/** The target of one attempt: file, format and what is above. */
class Target {
  readonly #end: End
  readonly #plan: Plan
  readonly #tools: CopyTools
  readonly #format: Format

  constructor(plan: Plan, tools: CopyTools) {
    this.#end = plan.ends.target
    this.#plan = plan
    this.#tools = tools
    this.#format = plan.options.targetFormat ?? 'raw'
  }

  async start(): Promise<void> {
    const { client, job, source, touching } = this.#tools
    const size = await sizeOfNode(client, source)
    const { image } = this.#plan
    await this.#checkBacking()
    touching()
    if (image !== undefined) await makeImage(client, this.#end, image, size)
    const node = await this.#beginning(await this.#open(), size)
    touching()
    await client.execute('blockdev-mirror', { ...job, target: node })
  }

  /** It is there, an image of its format, and not below itself: else an old target would be lost for nothing. */
  async #checkBacking(): Promise<void> {
    const { client, node } = this.#tools
    // Of a name on a server nothing can be found from here.
    if (this.#end.kind === 'nbd') return
    const backing = await backingImage(this.#end.path, this.#plan.image?.backing)
    if (backing === undefined) return
    const name = node('backing')
    await addImage(client, backing, name, { readOnly: true, direct: false })
    await checkApart(client, name, backing, this.#end)
  }

  /**
   * @param size  of the source, bytes
   * @returns the node to write to. What lies beyond stays as it is
   */
  async #beginning(node: string, size: number): Promise<string> {
    const { client, node: named } = this.#tools
    const there = await sizeOfNode(client, node)
    if (there === size) return node
    if (there < size) throw tooSmall(this.#end, there, this.#plan.ends.source, size)
    const part = named('target-part')
    const discard = this.#unmap() ? 'unmap' : 'ignore'
    await client.execute('blockdev-add', { driver: 'raw', 'node-name': part, file: node, size, discard })
    return part
  }

  #unmap(): boolean {
    return this.#plan.options.sparse !== 0
  }

  /** @returns the node to write to: the image, or the filter above it that compresses */
  async #open(): Promise<string> {
    const { client, node, direct } = this.#tools
    const image: Image = this.#plan.there ?? {
      end: { ...this.#end, kind: await kindNow(this.#end) },
      format: this.#format,
      guessed: this.#plan.options.existing && this.#plan.options.targetFormat === undefined,
    }
    const target = node('target')
    const noFlush = isUnsafe(this.#plan.options.cache)
    const how = { readOnly: false, direct, noFlush, unmap: this.#unmap() }
    await addImage(client, image, target, how)
    if (!this.#plan.options.compress) return target
    const filter = node('target-compressed')
    const discard = this.#unmap() ? 'unmap' : 'ignore'
    await client.execute('blockdev-add', { driver: 'compress', 'node-name': filter, file: target, discard })
    return filter
  }
}

/** What was missing before may have been made. */
async function kindNow(end: End): Promise<End['kind']> {
  if (end.kind === 'nbd') return end.kind
  return (await stat(end.path)).isBlockDevice() ? 'block' : 'file'
}
