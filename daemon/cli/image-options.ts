// SPDX-License-Identifier: Apache-2.0
// Options of a new image as `-o` takes them (names of qemu-img), as arguments of blockdev-create. Pure.

import { parseSize } from '../common/units.js'
import type { ArgumentValue } from './client.js'
import type { Format } from './image.js'
import { usage } from './status.js'

type Reader = (text: string, name: string) => ArgumentValue

const word: Reader = (text) => text
const flag: Reader = (text, name) => {
  if (['on', 'true', 'yes'].includes(text)) return true
  if (['off', 'false', 'no'].includes(text)) return false
  throw usage(`option '${name}' is on or off, found '${text}'`)
}
const bytes: Reader = (text, name) => {
  const value = parseSize(text)
  if (value === undefined) throw usage(`option '${name}' is a size, found '${text}'`)
  return value
}
const version: Reader = (text) => {
  if (text === '0.10' || text === 'v2') return 'v2'
  if (text === '1.1' || text === 'v3') return 'v3'
  throw usage(`option 'compat' is 0.10 or 1.1, found '${text}'`)
}

/** By format: name of qemu-img, name of blockdev-create and how the value is read. */
const known: Readonly<Record<Format, Readonly<Record<string, readonly [name: string, read: Reader]>>>> = {
  raw: { preallocation: ['preallocation', word] },
  qcow2: {
    preallocation: ['preallocation', word],
    compat: ['version', version],
    cluster_size: ['cluster-size', bytes],
    refcount_bits: ['refcount-bits', bytes],
    lazy_refcounts: ['lazy-refcounts', flag],
    extended_l2: ['extended-l2', flag],
    compression_type: ['compression-type', word],
    data_file_raw: ['data-file-raw', flag],
    backing_file: ['backing-file', word],
    backing_fmt: ['backing-fmt', word],
  },
}

/**
 * @param texts  each `name=value,name=value`; a comma inside a value is written twice
 * @throws CliError for a name or value that the format does not know
 */
export function createOptions(format: Format, texts: readonly string[]): Record<string, ArgumentValue> {
  const options: Record<string, ArgumentValue> = {}
  for (const text of texts) {
    // A comma that stands alone separates.
    for (const part of text.match(/(?:[^,]|,,)+/g) ?? []) {
      const equals = part.indexOf('=')
      const name = (equals < 0 ? part : part.slice(0, equals)).replaceAll('-', '_')
      const entry = Object.hasOwn(known[format], name) ? known[format][name] : undefined
      if (entry === undefined) throw usage(`option '${name}' is not known for images of format '${format}'`)
      options[entry[0]] = entry[1](equals < 0 ? 'on' : part.slice(equals + 1).replaceAll(',,', ','), name)
    }
  }
  return options
}
