// SPDX-License-Identifier: Apache-2.0
// The header of a new qcow2 image, with the extensions QEMU gives one. Pure. Used by create.ts.

import { FormatError } from '../../../../../protocol/format-error.js'
import {
  Autoclear,
  Compatible,
  type Extension,
  ExtensionType,
  FIXED_LENGTH,
  formatHeader,
  type Header,
  Incompatible,
  V2_LENGTH,
} from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'
import type { Qcow2Options } from '../../../messages.js'
import type { Layout } from './layout.js'

/** Kinds of feature bits as the table of names counts them. */
const INCOMPATIBLE = 0
const COMPATIBLE = 1
const AUTOCLEAR = 2
const NAME_LENGTH = 46

/** Tells programs that do not know a bit what it means. The names are those QEMU shows. */
const featureNames: readonly (readonly [kind: number, bit: number, name: string])[] = [
  [INCOMPATIBLE, Incompatible.dirty, 'dirty bit'],
  [INCOMPATIBLE, Incompatible.corrupt, 'corrupt bit'],
  [INCOMPATIBLE, Incompatible.dataFile, 'external data file'],
  [INCOMPATIBLE, Incompatible.compression, 'compression type'],
  [INCOMPATIBLE, Incompatible.extendedL2, 'extended L2 entries'],
  [COMPATIBLE, Compatible.lazyRefcounts, 'lazy refcounts'],
  [AUTOCLEAR, Autoclear.bitmaps, 'bitmaps'],
  [AUTOCLEAR, Autoclear.rawDataFile, 'raw external data'],
]

/**
 * The first cluster.
 * @param dataFile  data clusters lie in an external file
 * @throws CommandError when the name of the backing file does not fit into it
 */
export function newHeader(options: Qcow2Options, layout: Layout, dataFile: boolean): Uint8Array {
  const header = headerOf(options, layout, dataFile)
  if (options.version === 2) return fitting(header, options)
  const names = { type: ExtensionType.featureNames, data: formatNames() }
  try {
    return formatHeader({ ...header, extensions: [...header.extensions, names] })
  } catch (error) {
    // In the smallest clusters the names do not fit beside a backing file; they are a courtesy.
    if (!(error instanceof FormatError)) throw error
    return fitting(header, options)
  }
}

function fitting(header: Header, options: Qcow2Options): Uint8Array {
  try {
    return formatHeader(header)
  } catch (cause) {
    if (!(cause instanceof FormatError)) throw cause
    const { backingFile, backingFormat } = options
    throw new CommandError(
      `Could not assign backing file '${backingFile ?? ''}' with format '${backingFormat ?? '(null)'}': ` +
        'No space left on device',
      'GenericError',
      { cause },
    )
  }
}

function headerOf(options: Qcow2Options, layout: Layout, dataFile: boolean): Header {
  const incompatible = new Set<number>()
  if (dataFile) incompatible.add(Incompatible.dataFile)
  if (options.compression !== 'zlib') incompatible.add(Incompatible.compression)
  if (options.extendedL2) incompatible.add(Incompatible.extendedL2)
  return {
    version: options.version,
    clusterBits: Math.log2(layout.clusterSize),
    size: options.size,
    encryption: 'none',
    l1Size: layout.l1Size,
    l1Offset: layout.l1.offset,
    refcountTableOffset: layout.refcountTable.offset,
    refcountTableClusters: layout.refcountTable.length / layout.clusterSize,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible,
    compatible: new Set(options.lazyRefcounts ? [Compatible.lazyRefcounts] : []),
    autoclear: new Set(options.dataFileRaw ? [Autoclear.rawDataFile] : []),
    refcountOrder: layout.refcountOrder,
    headerLength: options.version === 2 ? V2_LENGTH : FIXED_LENGTH,
    unknownFields: new Uint8Array(0),
    compression: options.compression,
    extensions: [
      ...text(ExtensionType.backingFormat, options.backingFormat),
      ...text(ExtensionType.dataFile, dataFile ? options.dataFileName : undefined),
    ],
    backingFile: options.backingFile,
  }
}

function text(type: number, value: string | undefined): Extension[] {
  return value === undefined ? [] : [{ type, data: new TextEncoder().encode(value) }]
}

function formatNames(): Uint8Array {
  const entry = 2 + NAME_LENGTH
  const data = new Uint8Array(featureNames.length * entry)
  for (const [index, [kind, bit, name]] of featureNames.entries()) {
    data.set([kind, bit], index * entry)
    data.set(new TextEncoder().encode(name), index * entry + 2)
  }
  return data
}
