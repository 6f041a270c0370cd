// SPDX-License-Identifier: Apache-2.0
// Options of a new image as `-o name=value,…` takes them, with the names of qemu-img. Used by create, convert and
// measure. Talks to no daemon; values that are words are the daemon's to check.

import { resolve } from 'node:path'
import { parseSize, sizeProblem } from '../common/units.js'
import type { ArgumentValue, CommandArguments } from './client.js'
import type { Format } from './image.js'
import { usage } from './status.js'
import { isFileName, pathNamed } from './storage.js'

export interface ImageOptions {
  /** Bytes. */
  readonly size: number | undefined
  readonly backing: string | undefined
  readonly backingFormat: string | undefined
  readonly dataFile: string | undefined
  /** For blockdev-create, besides driver, size and files. */
  readonly more: CommandArguments
}

export interface BackingFile {
  /** As the new image is to name it. */
  readonly file: string
  readonly format: string
}

export interface DataFile {
  readonly path: string
  /** As the new image is to name it; undefined: by its absolute path. */
  readonly name?: string
}

type Reader = (text: string, name: string) => ArgumentValue

const words: Readonly<Record<string, boolean>> = {
  ...{ on: true, yes: true, true: true },
  ...{ off: false, no: false, false: false },
}
const flag: Reader = (text, name) => {
  const found = Object.hasOwn(words, text) ? words[text] : undefined
  if (found === undefined) throw usage(`'${name}' expects 'on' or 'off', found '${text}'`)
  return found
}
const bytes = (text: string, name: string): number => {
  const found = parseSize(text)
  if (found === undefined)
    throw usage(`'${name}' expects ${sizeProblem(text, '65536 or 64k')}, found '${text}'`)
  return found
}
const count: Reader = (text, name) => {
  if (!/^\d{1,9}$/.test(text)) throw usage(`'${name}' expects a number, found '${text}'`)
  return Number(text)
}
const versions: Readonly<Record<string, string>> = { '0.10': 'v2', v2: 'v2', '1.1': 'v3', v3: 'v3' }
const version: Reader = (text, name) => {
  const found = Object.hasOwn(versions, text) ? versions[text] : undefined
  if (found === undefined) throw usage(`'${name}' is 0.10 or 1.1, found '${text}'`)
  return found
}
const word: Reader = (text) => text

/** Name in the daemon and reader, by the name of qemu-img. */
const known: Readonly<Record<Format, Readonly<Record<string, readonly [string, Reader]>>>> = {
  raw: { preallocation: ['preallocation', word], nocow: ['nocow', flag] },
  qcow2: {
    cluster_size: ['cluster-size', bytes],
    preallocation: ['preallocation', word],
    compat: ['version', version],
    refcount_bits: ['refcount-bits', count],
    lazy_refcounts: ['lazy-refcounts', flag],
    extended_l2: ['extended-l2', flag],
    compression_type: ['compression-type', word],
    data_file_raw: ['data-file-raw', flag],
    nocow: ['x-nocow', flag],
  },
}

/**
 * @param texts  each `name=value,name=value`; a comma inside a value is written twice; a name alone switches on
 * @throws CliError (usage) for a name or value that the format does not know
 */
export function imageOptions(format: Format, texts: readonly string[]): ImageOptions {
  const given = new Map(texts.flatMap(partsOf))
  const take = (name: string): string | undefined => {
    const value = given.get(name)
    given.delete(name)
    return value
  }
  const size = take('size')
  const files = {
    backing: take('backing_file'),
    backingFormat: take('backing_fmt'),
    dataFile: format === 'qcow2' ? take('data_file') : undefined,
  }
  const more: Record<string, ArgumentValue> = {}
  for (const [name, text] of given) {
    const entry = Object.hasOwn(known[format], name) ? known[format][name] : undefined
    if (entry === undefined && name.startsWith('encrypt'))
      throw usage(`encryption is not supported: '${name}'`)
    if (entry === undefined) throw usage(`invalid option '${name}' for -o and format '${format}'`)
    more[entry[0]] = entry[1](text, name)
  }
  return { ...files, size: size === undefined ? undefined : bytes(size, 'size'), more }
}

/**
 * A data file is looked for from the working directory of who opens its image, so a relative name serves where that is ours. One
 * with a colon would be taken for more than a path.
 * @param socket  of a daemon that is not ours
 */
export function dataFileOf(path: string | undefined, socket: string | undefined): DataFile | undefined {
  if (path === undefined) return undefined
  return socket !== undefined || path.includes(':') ? { path } : { path, name: path }
}

/**
 * With `file:` before it a name is looked for from the working directory of who opens the image, so a relative one serves
 * only where that is ours.
 * @param socket  of a daemon that is not ours
 * @throws CliError (usage) when file and format of it do not go together, or with the format of the image
 */
export function backingOf(
  imageFormat: Format,
  file: string | undefined,
  format: string | undefined,
  socket: string | undefined,
): BackingFile | undefined {
  if (file === undefined) {
    if (format !== undefined) throw usage('backing format cannot be used without backing file')
    return undefined
  }
  if (imageFormat === 'raw') throw usage("backing file not supported for file format 'raw'")
  // What an image begins with is in the hands of its guest, so it must not decide how the image is read.
  if (format === undefined) throw usage('backing file specified without backing format (-F)')
  return {
    file: socket === undefined || !isFileName(file) ? file : `file:${resolve(pathNamed(file))}`,
    format,
  }
}

function partsOf(text: string): [string, string][] {
  // A comma that stands alone separates.
  return (text.match(/(?:[^,]|,,)+/g) ?? []).map((part) => {
    const equals = part.indexOf('=')
    const value = equals < 0 ? 'on' : part.slice(equals + 1).replaceAll(',,', ',')
    return [equals < 0 ? part : part.slice(0, equals), value]
  })
}
