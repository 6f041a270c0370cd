// SPDX-License-Identifier: Apache-2.0
// `-o help` of create, convert and measure: the options of a new image, laid out as qemu-img does it. Those that are no options here are left out.

import type { Format } from './image.js'

const options: Readonly<Record<Format, readonly (readonly [name: string, value: string, what: string])[]>> = {
  raw: [
    ['nocow', 'bool (on/off)', 'Turn off copy-on-write (valid only on btrfs)'],
    ['preallocation', 'str', 'Preallocation mode (allowed values: off, falloc, full)'],
    ['size', 'size', 'Virtual disk size'],
  ],
  qcow2: [
    ['backing_file', 'str', 'File name of a base image'],
    ['backing_fmt', 'str', 'Image format of the base image'],
    ['cluster_size', 'size', 'qcow2 cluster size'],
    ['compat', 'str', 'Compatibility level (v2 [0.10] or v3 [1.1])'],
    ['compression_type', 'str', 'Compression method used for image cluster compression'],
    ['data_file', 'str', 'File name of an external data file'],
    ['data_file_raw', 'bool (on/off)', 'The external data file must stay valid as a raw image'],
    ['extended_l2', 'bool (on/off)', 'Extended L2 tables'],
    ['lazy_refcounts', 'bool (on/off)', 'Postpone refcount updates'],
    ['nocow', 'bool (on/off)', 'Turn off copy-on-write (valid only on btrfs)'],
    ['preallocation', 'str', 'Preallocation mode (allowed values: off, metadata, falloc, full)'],
    ['refcount_bits', 'num', 'Width of a reference count entry in bits'],
    ['size', 'size', 'Virtual disk size'],
  ],
}

/** Where the column of texts begins. */
const WIDTH = 24

/** Prints the options where one of the texts of -o asks for them. @returns whether it did; nothing else is to be done then */
export function listsOptions(format: Format, texts: readonly string[]): boolean {
  if (!texts.some(asksForHelp)) return false
  const lines = options[format].map(
    ([name, value, what]) => `${`  ${name}=<${value}>`.padEnd(WIDTH)} - ${what}\n`,
  )
  process.stdout.write(`Supported options:\n${lines.join('')}`)
  return true
}

/** A comma that is written twice is part of a value. */
function asksForHelp(text: string): boolean {
  return text
    .replaceAll(',,', '')
    .split(',')
    .some((part) => part === 'help' || part === '?')
}
