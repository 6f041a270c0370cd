// SPDX-License-Identifier: Apache-2.0
// An image as a command names it: a path with or without a format, or options (--image-opts, `json:…`). Decides which node is
// to be opened for it; talks to no daemon. A format nobody named is guessed from the first bytes.

import { open } from 'node:fs/promises'
import { resolve } from 'node:path'
import { formatOf, PROBE_LENGTH } from '../../protocol/image-magic.js'
import { isJsonName, parseJsonName } from '../../protocol/json-name.js'
import { isJsonObject, type JsonObject } from '../../protocol/json-value.js'
import { parseKeyval, validateImageKeyval, validateMixed } from '../../protocol/keyval.js'
import { blockdevOptions } from '../../protocol/schema/nodes.js'
import { checkNames } from '../../protocol/schema/unknown-names.js'
import { ArgumentError, validate } from '../../protocol/schema/validate.js'
import { EIO, errnoNumber, errnoText } from '../common/errno.js'
import { requestOf } from './arguments.js'
import type { Client, CommandArguments } from './client.js'
import { lookAtImage } from './mirror-request.js'
import { type SnapshotName, snapshotName } from './snapshot-name.js'
import { CliError, failed, usage } from './status.js'
import { addNode, type End, socketPlace, storageDefinition } from './storage.js'
import { storageIn } from './storage-in-options.js'
import { asObject } from './values.js'

export const formats = ['raw', 'qcow2'] as const
export type Format = (typeof formats)[number]

/** An image that is there. */
export interface Image {
  readonly end: End
  readonly format: Format
  /** Nobody named the format. */
  readonly guessed: boolean
  /** In place of path and format. */
  readonly options?: JsonObject
  /** What it shows in place of its disk; qcow2 only. */
  readonly snapshot?: SnapshotName
}

/** How a node is to be opened. */
export interface HowToOpen {
  readonly readOnly: boolean
  readonly direct: boolean
  /** Requests to leave holes are passed on. */
  readonly unmap?: boolean
  readonly forceShare?: boolean
  readonly noFlush?: boolean
  /** Only the beginning of a raw image, bytes. */
  readonly size?: number
  /** Name of a node that shows the file, or whatever the image lies on. */
  readonly on?: string
  /** Nothing shows through from below. */
  readonly noBacking?: boolean
  /** Scattered pieces of one request that run at once; qcow2 only. */
  readonly tasks?: number
}

/** @throws CliError when it is missing or no image */
export async function findImage(name: string, format: Format | undefined, imageOpts = false): Promise<Image> {
  if (imageOpts && format !== undefined) throw usage('--image-opts and a format are mutually exclusive')
  if (imageOpts || isJsonName(name)) return await imageOf(name, imageOpts, format)
  const end = await lookAtImage(name)
  return { end, format: format ?? (await guess(end)), guessed: format === undefined }
}

/** What a command looks at with `-f`, `--image-opts` and `-l`. */
export interface SourceOptions {
  readonly format?: Format
  readonly imageOpts: boolean
  /** Internal snapshot in place of the disk. */
  readonly snapshot?: string
}

/** @throws CliError as findImage(), and for a snapshot of an image that can have none */
export async function findSource(name: string, options: SourceOptions): Promise<Image> {
  const snapshot = options.snapshot === undefined ? undefined : snapshotName(options.snapshot)
  const disk = await findImage(name, options.format, options.imageOpts)
  if (snapshot === undefined) return disk
  if (disk.format === 'qcow2') return { ...disk, snapshot }
  throw failed(`'${name}': images of format '${disk.format}' have no internal snapshots`)
}

/** Format by the first bytes: qcow2, or raw where they are of no format that is known. @throws CliError for another format */
export async function guess(end: End): Promise<Format> {
  // What a server serves is taken as it is; it has opened the image itself.
  return end.kind === 'nbd' ? 'raw' : readable(end.name, formatOf(await beginning(end)))
}

async function beginning(end: End): Promise<Uint8Array> {
  try {
    const file = await open(end.path, 'r')
    try {
      const start = new Uint8Array(PROBE_LENGTH)
      const { bytesRead } = await file.read(start, 0, PROBE_LENGTH, 0)
      return start.subarray(0, bytesRead)
    } finally {
      await file.close()
    }
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? ''
    const reason = errnoText(errnoNumber(code) ?? EIO)
    throw failed(`cannot open '${end.name}' to see its format: ${reason}`, { cause })
  }
}

/**
 * The bytes of an image of another format are not its disk, so nobody is given them unasked. (Of LUKS they are: a guest
 * encrypts its raw disk so.)
 */
function readable(name: string, found: string | undefined): Format {
  if (found === 'qcow2') return found
  if (found === undefined || found === 'luks') return 'raw'
  throw failed(
    `'${name}' begins as an image of format '${found}', which is not read here; as format raw its bytes are taken as they are`,
  )
}

/** Adds the node that shows what is in the image. @throws QmpError */
export async function addImage(
  client: Client,
  image: Image,
  nodeName: string,
  how: HowToOpen,
): Promise<void> {
  await addNode(client, image.end, imageDefinition(image, nodeName, how))
}

type Written = Pick<HowToOpen, 'readOnly' | 'size'>

/** Only guessed to be raw and opened to be written, all of it: no beginning of another format gets there. */
function isRestricted({ format, guessed, options }: Image, { readOnly, size }: Written): boolean {
  return format === 'raw' && guessed && !readOnly && (size ?? options?.size ?? options?.offset) === undefined
}

/** As QEMU's programs warn. Called by who writes what others give, when the image is open. */
export function warnIfRestricted(image: Image, how: Written): void {
  if (!isRestricted(image, how)) return
  const what = `'${image.end.name}' was only guessed to be raw`
  process.stderr.write(
    `blockferry: warning: ${what}, so no beginning of an image of another format is written to it; name its format\n`,
  )
}

function imageDefinition(image: Image, nodeName: string, how: HowToOpen): CommandArguments {
  const common = {
    'read-only': how.readOnly,
    ...(how.forceShare && { 'force-share': true }),
    // What the user says goes before the mode, as with QEMU's programs.
    cache: {
      direct: how.direct,
      ...(how.noFlush && { 'no-flush': true }),
      ...asObject(image.options?.cache),
    },
    // A request to leave holes gets through only where every layer lets it.
    ...(how.unmap && image.options?.discard === undefined && { discard: 'unmap' }),
  }
  if (!how.readOnly && image.options?.['read-only'] === true)
    throw usage(`'${image.end.name}' is to be written and says that it is read-only`)
  const snapshot =
    image.snapshot === undefined
      ? {}
      : { 'x-snapshot': image.snapshot.name, 'x-snapshot-by': image.snapshot.by }
  const { end, format, options } = image
  const raw = isRestricted(image, how) ? { 'x-guessed': true } : {}
  if (options !== undefined) return { ...options, 'node-name': nodeName, ...common, ...snapshot, ...raw }
  return {
    driver: format,
    'node-name': nodeName,
    ...common,
    ...snapshot,
    ...(format === 'raw' && how.size !== undefined ? { size: how.size } : {}),
    ...raw,
    ...(format === 'qcow2' && how.noBacking ? { backing: null } : {}),
    ...(format === 'qcow2' && how.tasks !== undefined ? { 'x-tasks': how.tasks } : {}),
    file: how.on ?? { ...storageDefinition(end), ...common },
  }
}

/**
 * `driver=qcow2,file.filename=disk` or JSON, or a `json:` name; without a driver the format is guessed.
 * @param format  in place of what the name says
 * @throws CliError (usage) naming what is not as an option is to be
 */
async function imageOf(text: string, imageOpts: boolean, format: Format | undefined): Promise<Image> {
  try {
    const given = imageOpts ? optionsIn(text) : { options: parseJsonName(text), check: validateMixed }
    if (format !== undefined) given.options.driver = format
    const guessed = given.options.driver === undefined
    const unseen = await guessDrivers(text, given.options)
    const whole = completed(given.options)
    checkNames(blockdevOptions, whole)
    const options = given.check(blockdevOptions, whole) as JsonObject
    if (unseen !== undefined) throw unseen
    return {
      end: storageIn(text, options),
      format: options.driver === 'qcow2' ? 'qcow2' : 'raw',
      guessed,
      options,
    }
  } catch (cause) {
    if (cause instanceof ArgumentError)
      throw usage(`${imageOpts ? '--image-opts ' : ''}'${text}': ${cause.message}`)
    throw cause
  }
}

/** What --image-opts says, and what its values are to be. */
function optionsIn(text: string) {
  return text.startsWith('{')
    ? { options: requestOf([text]), check: validate }
    : { options: parseKeyval(text, undefined), check: validateImageKeyval }
}

/**
 * Names the drivers of an image and of its backing file that were not named.
 * @returns why a format could not be seen: what is wrong with the options is to be told first
 */
async function guessDrivers(text: string, options: JsonObject): Promise<CliError | undefined> {
  const { backing } = options
  if (options.driver === undefined && options.file === undefined)
    throw new ArgumentError('Must specify either driver or file')
  let unseen: CliError | undefined
  for (const layer of [options, backing]) {
    if (!isJsonObject(layer) || layer.driver !== undefined || layer.file === undefined) continue
    layer.driver = await formatBelow(text, layer).catch((error: unknown) => {
      if (!(error instanceof CliError)) throw error
      unseen ??= error
      return 'raw'
    })
  }
  return unseen
}

/** What is not a file's content, or not a file by its name, or a part of one, is taken as it is. */
async function formatBelow(text: string, options: JsonObject): Promise<Format> {
  const { file, offset, size } = options
  if (!isJsonObject(file) || typeof file.filename !== 'string') return 'raw'
  const whole = offset === undefined && size === undefined
  const plain = file.driver === undefined || file.driver === 'file' || file.driver === 'host_device'
  return whole && plain ? await guess(storageIn(text, options)) : 'raw'
}

/** Names of files and sockets relative to this process, and drivers of layers that go without saying, as the daemon needs them. */
function completed(options: JsonObject): JsonObject {
  for (const role of ['file', 'backing', 'data-file', 'target']) {
    const child = options[role]
    if (isJsonObject(child)) options[role] = completed(child)
  }
  if (options.driver === undefined) options.driver = isJsonObject(options.file) ? 'raw' : 'file'
  if (typeof options.filename === 'string') options.filename = resolve(options.filename)
  const { server } = options
  if (isJsonObject(server) && typeof server.path === 'string') server.path = socketPlace(server.path)
  return options
}
