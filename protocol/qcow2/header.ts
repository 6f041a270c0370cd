// SPDX-License-Identifier: Apache-2.0
// The header of a qcow2 image with its extensions. Source: docs/interop/qcow2 of QEMU, "Header" to "Feature name table".
// Used by the qcow2 driver, by creation and by the checker. Ranges are checked here as far as the header alone can tell;
// whether offsets fit the file is the reader's to check.

import { FormatError } from '../format-error.js'
import { getUint64, padded, setUint64, textOf, viewOf } from './bytes.js'

export const MAGIC = 0x514649fb
/** Bytes that are enough for the fixed part. */
export const FIXED_LENGTH = 112
/** The fixed part of version 2. */
export const V2_LENGTH = 72
const V3_LENGTH = 104
const MIN_CLUSTER_BITS = 9
const MAX_CLUSTER_BITS = 21
const MAX_BACKING_NAME = 1023
/** Most bytes of an L1 table, which is read whole at open; that of QEMU, so that it can open what is made here. */
export const MAX_L1 = 32 << 20
/** Bytes of the refcount table. An image with a longer one is opened neither here nor by QEMU. */
export const MAX_REFCOUNT_TABLE = 8 << 20
const SUBCLUSTERS = 32
const MIN_SUBCLUSTER = 512

/** Bit numbers. An image with an incompatible bit that is not here must not be opened. */
export const Incompatible = { dirty: 0, corrupt: 1, dataFile: 2, compression: 3, extendedL2: 4 } as const
export const Compatible = { lazyRefcounts: 0 } as const
export const Autoclear = { bitmaps: 0, rawDataFile: 1 } as const

export const ExtensionType = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const

export type Compression = 'zlib' | 'zstd'
const compressions: readonly Compression[] = ['zlib', 'zstd']
export type Encryption = 'none' | 'aes' | 'luks'
const encryptions: readonly Encryption[] = ['none', 'aes', 'luks']

/** Bit numbers that are set. */
export type Features = ReadonlySet<number>

export interface Extension {
  readonly type: number
  readonly data: Uint8Array
}

/** Offsets are host offsets, bytes. */
export interface Header {
  readonly version: 2 | 3
  readonly clusterBits: number
  /** Bytes of the virtual disk. */
  readonly size: number
  readonly encryption: Encryption
  /** Entries. */
  readonly l1Size: number
  readonly l1Offset: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  readonly snapshotCount: number
  readonly snapshotsOffset: number
  readonly incompatible: Features
  readonly compatible: Features
  readonly autoclear: Features
  /** Refcounts are 2 ** refcountOrder bits wide. */
  readonly refcountOrder: number
  /** Bytes of the fixed part; extensions follow. */
  readonly headerLength: number
  /** What follows the fields known here, kept as it is. */
  readonly unknownFields: Uint8Array
  readonly compression: Compression
  /** In their order, the end mark left out. */
  readonly extensions: readonly Extension[]
  /** undefined: none. */
  readonly backingFile: string | undefined
}

/** Whether the first bytes of a file are those of a qcow2 image. */
export function isQcow2(bytes: Uint8Array): boolean {
  return bytes.length >= 8 && viewOf(bytes).getUint32(0) === MAGIC
}

/**
 * How many bytes parseHeader() needs: the first cluster.
 * @param bytes  at least the first 24 of the file, or all of it
 * @throws FormatError when it is no qcow2 image of a kind known here
 */
export function clusterSizeOf(bytes: Uint8Array): number {
  if (!isQcow2(bytes)) throw new FormatError('Image is not in qcow2 format')
  if (bytes.length < V2_LENGTH) throw new FormatError('qcow2 header too short')
  const view = viewOf(bytes)
  const version = view.getUint32(4)
  if (version !== 2 && version !== 3) throw new FormatError(`Unsupported qcow2 version ${version}`)
  const bits = view.getUint32(20)
  if (bits < MIN_CLUSTER_BITS || bits > MAX_CLUSTER_BITS)
    throw new FormatError(`Unsupported cluster size: 2^${bits}`)
  return 2 ** bits
}

/**
 * @param bytes  the first cluster, or the whole file where that is shorter
 * @throws FormatError naming the field
 */
export function parseHeader(bytes: Uint8Array): Header {
  const clusterSize = clusterSizeOf(bytes)
  const view = viewOf(bytes)
  const version = view.getUint32(4) === 2 ? 2 : 3
  const headerLength = lengthOf(view, version, clusterSize)
  const v3 = version === 3
  const incompatible = v3 ? features(view, 72) : new Set<number>()
  const extensions = parseExtensions(bytes, headerLength, clusterSize)
  checkFeatures(incompatible, extensions)
  if (incompatible.has(Incompatible.extendedL2) && clusterSize < SUBCLUSTERS * MIN_SUBCLUSTER)
    throw new FormatError(`Unsupported subcluster size: ${clusterSize / SUBCLUSTERS}`)
  const refcountOrder = v3 ? view.getUint32(96) : 4
  if (refcountOrder > 6)
    throw new FormatError('Reference count entry width too large; may not exceed 64 bits')
  return {
    version,
    clusterBits: Math.log2(clusterSize),
    size: safe(view, 24, 'Image size'),
    encryption: encryptionOf(view),
    l1Size: view.getUint32(36),
    l1Offset: safe(view, 40, 'Active L1 table offset'),
    refcountTableOffset: safe(view, 48, 'Reference count table offset'),
    refcountTableClusters: view.getUint32(56),
    snapshotCount: view.getUint32(60),
    snapshotsOffset: safe(view, 64, 'Snapshot table offset'),
    incompatible,
    compatible: v3 ? features(view, 80) : new Set(),
    autoclear: v3 ? features(view, 88) : new Set(),
    refcountOrder,
    headerLength,
    unknownFields: bytes.slice(Math.min(headerLength, FIXED_LENGTH), headerLength),
    compression: compressionOf(bytes, headerLength, incompatible),
    extensions,
    backingFile: backingFileOf(bytes, headerLength, clusterSize),
  }
}

/**
 * The first cluster of an image: fields, extensions, the name of the backing file behind them.
 * @param header  `headerLength` is kept
 * @param nameFrom  the name of the backing file lies at this offset or behind it
 * @throws FormatError when it does not fit into a cluster
 */
export function formatHeader(header: Header, nameFrom = 0): Uint8Array {
  const bytes = new Uint8Array(2 ** header.clusterBits)
  const backing = header.backingFile === undefined ? undefined : new TextEncoder().encode(header.backingFile)
  if (backing !== undefined && backing.length > MAX_BACKING_NAME)
    throw new FormatError('Backing file name too long')
  const areaLength = header.extensions.reduce((sum, { data }) => sum + 8 + padded(data.length), 8)
  const nameOffset = Math.max(header.headerLength + areaLength, nameFrom)
  if (nameOffset + (backing?.length ?? 0) > bytes.length) {
    throw new FormatError('The header with its extensions does not fit into a cluster')
  }
  formatFields(viewOf(bytes), header)
  bytes.set(header.unknownFields, FIXED_LENGTH)
  formatExtensions(bytes, header.headerLength, header.extensions)
  if (backing !== undefined) {
    bytes.set(backing, nameOffset)
    setUint64(viewOf(bytes), 8, nameOffset)
    viewOf(bytes).setUint32(16, backing.length)
  }
  return bytes
}

/**
 * Writes the fields of a header over those of an image; where the name of its backing file lies, and everything that is
 * not known here, stay as they are.
 * @param bytes  the first sector at least, of an image with the same version and headerLength
 */
export function changeFields(bytes: Uint8Array, header: Header): void {
  formatFields(viewOf(bytes), header)
}

/** Text of an extension that is a string; undefined when it is absent. */
export function extensionText(header: Header, type: number): string | undefined {
  const found = header.extensions.find((extension) => extension.type === type)
  return found === undefined ? undefined : textOf(found.data)
}

function formatFields(view: DataView, header: Header): void {
  view.setUint32(0, MAGIC)
  view.setUint32(4, header.version)
  view.setUint32(20, header.clusterBits)
  setUint64(view, 24, header.size)
  view.setUint32(32, encryptions.indexOf(header.encryption))
  view.setUint32(36, header.l1Size)
  setUint64(view, 40, header.l1Offset)
  setUint64(view, 48, header.refcountTableOffset)
  view.setUint32(56, header.refcountTableClusters)
  view.setUint32(60, header.snapshotCount)
  setUint64(view, 64, header.snapshotsOffset)
  if (header.version === 2) return
  setFeatures(view, 72, header.incompatible)
  setFeatures(view, 80, header.compatible)
  setFeatures(view, 88, header.autoclear)
  view.setUint32(96, header.refcountOrder)
  view.setUint32(100, header.headerLength)
  if (header.headerLength > V3_LENGTH) view.setUint8(V3_LENGTH, compressions.indexOf(header.compression))
}

function formatExtensions(bytes: Uint8Array, from: number, extensions: readonly Extension[]): void {
  const view = viewOf(bytes)
  let at = from
  for (const { type, data } of extensions) {
    view.setUint32(at, type)
    view.setUint32(at + 4, data.length)
    bytes.set(data, at + 8)
    at += 8 + padded(data.length)
  }
}

function lengthOf(view: DataView, version: 2 | 3, clusterSize: number): number {
  if (version === 2) return V2_LENGTH
  if (view.byteLength < V3_LENGTH) throw new FormatError('qcow2 header too short')
  const length = view.getUint32(100)
  if (length < V3_LENGTH) throw new FormatError('qcow2 header too short')
  if (length > clusterSize || length > view.byteLength)
    throw new FormatError('qcow2 header exceeds cluster size')
  if (length % 8 !== 0) throw new FormatError(`qcow2 header length ${length} is not a multiple of 8`)
  return length
}

function parseExtensions(bytes: Uint8Array, from: number, clusterSize: number): Extension[] {
  const view = viewOf(bytes)
  const backingOffset = getUint64(view, 8)
  if (backingOffset > clusterSize) throw new FormatError('Invalid backing file offset')
  const end = Math.min(backingOffset === 0 ? clusterSize : backingOffset, bytes.length)
  const extensions: Extension[] = []
  for (let at = from; at + 8 <= end; ) {
    const type = view.getUint32(at)
    const length = view.getUint32(at + 4)
    if (type === ExtensionType.end) break
    if (length > end - at - 8) throw new FormatError('Header extension too large')
    extensions.push({ type, data: bytes.slice(at + 8, at + 8 + length) })
    at += 8 + padded(length)
  }
  return extensions
}

/** Names features that are not known here as the image itself calls them; the rest by their bits, in hexadecimal. */
function checkFeatures(incompatible: Features, extensions: readonly Extension[]): void {
  const known = new Set<number>(Object.values(Incompatible))
  const unknown = [...incompatible].filter((bit) => !known.has(bit))
  if (unknown.length === 0) return
  const names = featureNames(extensions.find(({ type }) => type === ExtensionType.featureNames)?.data)
  const texts = unknown.flatMap((bit) => names.get(bit) ?? [])
  const nameless = unknown.reduce((mask, bit) => (names.has(bit) ? mask : mask | (1n << BigInt(bit))), 0n)
  if (nameless !== 0n) texts.push(`Unknown incompatible feature: ${nameless.toString(16)}`)
  throw new FormatError(`Unsupported qcow2 feature(s): ${texts.join(', ')}`)
}

/** Names of incompatible features by bit. */
function featureNames(table: Uint8Array | undefined): Map<number, string> {
  const names = new Map<number, string>()
  for (let at = 0; table !== undefined && at + 48 <= table.length; at += 48) {
    const text = textOf(table.subarray(at + 2, at + 48)).replace(/\0.*$/s, '')
    if (table[at] === 0) names.set(table[at + 1] ?? 0, text)
  }
  return names
}

function encryptionOf(view: DataView): Encryption {
  const found = encryptions[view.getUint32(32)]
  if (found === undefined) throw new FormatError(`Unsupported encryption method ${view.getUint32(32)}`)
  return found
}

function compressionOf(bytes: Uint8Array, headerLength: number, incompatible: Features): Compression {
  const value = headerLength > V3_LENGTH ? (bytes[V3_LENGTH] ?? 0) : 0
  const found = compressions[value]
  if (found === undefined) throw new FormatError(`qcow2: unknown compression type: ${value}`)
  const marked = incompatible.has(Incompatible.compression)
  if (marked !== (found !== 'zlib')) {
    const wanted = marked ? 'must not be set' : 'must be set'
    throw new FormatError(`qcow2: Compression type incompatible feature bit ${wanted}`)
  }
  return found
}

function backingFileOf(bytes: Uint8Array, headerLength: number, clusterSize: number): string | undefined {
  const view = viewOf(bytes)
  const offset = getUint64(view, 8)
  if (offset === 0) return undefined
  const length = view.getUint32(16)
  if (length > Math.min(MAX_BACKING_NAME, clusterSize - offset))
    throw new FormatError('Backing file name too long')
  if (offset < headerLength || offset + length > bytes.length)
    throw new FormatError('Invalid backing file offset')
  return textOf(bytes.subarray(offset, offset + length))
}

function features(view: DataView, at: number): Set<number> {
  const set = new Set<number>()
  for (let bit = 0; bit < 64; bit++) {
    const byte = view.getUint8(at + 7 - (bit >> 3))
    if ((byte >> (bit & 7)) & 1) set.add(bit)
  }
  return set
}

function setFeatures(view: DataView, at: number, features: Features): void {
  setUint64(view, at, 0)
  for (const bit of features) {
    const byte = at + 7 - (bit >> 3)
    view.setUint8(byte, view.getUint8(byte) | (1 << (bit & 7)))
  }
}

function safe(view: DataView, at: number, name: string): number {
  const value = getUint64(view, at)
  if (!Number.isSafeInteger(value)) throw new FormatError(`${name} too large`)
  return value
}
