// SPDX-License-Identifier: Apache-2.0
// What `blockferry create` was asked: `-o name=value,…` with the names of qemu-img, turned into the daemon's options.
// Talks to no daemon; values that are words are the daemon's to check.

import { parseSize } from '../common/units.js'
import type { ArgumentValue, CommandArguments } from './client.js'
import { usage } from './status.js'

/** Options of the command line. */
export interface CreateOptions {
  readonly format: 'raw' | 'qcow2'
  readonly backing?: string
  readonly backingFormat?: string
  /** Each a list of name=value. */
  readonly options: readonly string[]
  /** Do not look at the backing file. */
  readonly unsafe: boolean
  readonly quiet: boolean
  readonly socket?: string
  readonly logLevel?: string
}

export interface CreateRequest {
  readonly format: 'raw' | 'qcow2'
  /** Bytes; undefined: that of the backing file. */
  readonly size: number | undefined
  readonly backing: { readonly file: string; readonly format: string } | undefined
  readonly dataFile: string | undefined
  /** For blockdev-create, besides driver, size and files. */
  readonly more: CommandArguments
}

type Reader = (text: string, name: string) => ArgumentValue

const words: Readonly<Record<string, boolean>> = {
  on: true,
  yes: true,
  true: true,
  off: false,
  no: false,
  false: false,
}
const flag: Reader = (text, name) => {
  const found = Object.hasOwn(words, text) ? words[text] : undefined
  if (found === undefined) throw usage(`'${name}' expects 'on' or 'off', found '${text}'`)
  return found
}
const bytes: Reader = (text, name) => {
  const found = parseSize(text)
  if (found === undefined) throw usage(`'${name}' expects a size such as 65536 or 64k, found '${text}'`)
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
const qcow2Options: Readonly<Record<string, readonly [string, Reader]>> = {
  cluster_size: ['cluster-size', bytes],
  preallocation: ['preallocation', word],
  compat: ['version', version],
  refcount_bits: ['refcount-bits', count],
  lazy_refcounts: ['lazy-refcounts', flag],
  extended_l2: ['extended-l2', flag],
  compression_type: ['compression-type', word],
  data_file_raw: ['data-file-raw', flag],
}
const rawOptions: typeof qcow2Options = { preallocation: ['preallocation', word] }

/**
 * @param size  bytes, from the command line
 * @throws CliError (usage)
 */
export function createRequest(size: number | undefined, options: CreateOptions): CreateRequest {
  const given = new Map(options.options.flatMap(partsOf))
  const take = (name: string): string | undefined => {
    const value = given.get(name)
    given.delete(name)
    return value
  }
  const file = options.backing ?? take('backing_file')
  const format = options.backingFormat ?? take('backing_fmt')
  const sizeText = take('size')
  const dataFile = options.format === 'qcow2' ? take('data_file') : undefined
  const known = options.format === 'qcow2' ? qcow2Options : rawOptions
  const more: Record<string, ArgumentValue> = {}
  for (const [name, text] of given) {
    const [member, read] = (Object.hasOwn(known, name) ? known[name] : undefined) ?? unknownOption(name)
    more[member] = read(text, name)
  }
  const asked = size ?? (sizeText === undefined ? undefined : Number(bytes(sizeText, 'size')))
  const backing = backingOf(options.format, file, format)
  if (asked === undefined && backing === undefined) throw usage('image creation needs a size')
  if (asked === undefined && options.unsafe)
    throw usage('without looking at the backing file a size is needed')
  return { format: options.format, size: asked, backing, dataFile, more }
}

function backingOf(
  imageFormat: string,
  file: string | undefined,
  format: string | undefined,
): CreateRequest['backing'] {
  if (file === undefined) {
    if (format !== undefined) throw usage('backing format cannot be used without backing file')
    return undefined
  }
  if (imageFormat === 'raw') throw usage("backing file not supported for file format 'raw'")
  // What an image begins with is in the hands of its guest, so it must not decide how the image is read.
  if (format === undefined) throw usage('backing file specified without backing format (-F)')
  return { file, format }
}

/** `a=b,c=d`; a comma in a value is doubled; a name alone switches on. */
function partsOf(text: string): [string, string][] {
  return splitAtCommas(text).map((part) => {
    const equals = part.indexOf('=')
    return equals < 0 ? [part, 'on'] : [part.slice(0, equals), part.slice(equals + 1)]
  })
}

function splitAtCommas(text: string): string[] {
  const parts: string[] = ['']
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at)
    const doubled = character === ',' && text.charAt(at + 1) === ','
    if (character === ',' && !doubled) parts.push('')
    else parts.push(`${parts.pop() ?? ''}${character}`)
    if (doubled) at++
  }
  return parts.filter((part) => part !== '')
}

function unknownOption(name: string): never {
  throw usage(`invalid option '${name}' for -o`)
}
