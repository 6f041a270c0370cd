// SPDX-License-Identifier: Apache-2.0
// Reading the header and the snapshot table of an image, and what must hold between its fields before anything of it is
// believed. Limits are those of docs/interop/qcow2 of QEMU: 32 MiB of L1, 8 MiB of refcount table.

import { FormatError } from '../../../../../protocol/format-error.js'
import {
  clusterSizeOf,
  ExtensionType,
  type Header,
  Incompatible,
  MAX_L1,
  MAX_REFCOUNT_TABLE,
  parseHeader,
} from '../../../../../protocol/qcow2/header.js'
import { hasPossibleL1, parseSnapshot, type Snapshot } from '../../../../../protocol/qcow2/snapshots.js'
import { CommandError } from '../../../../errors.js'
import { Image, type ImageEnv } from './image.js'

const MAX_SNAPSHOTS = 65536
const MAX_SNAPSHOT_TABLE = 64 << 20
const FIRST_READ = 4096

/**
 * @throws CommandError for an image that cannot be used, naming what is wrong
 * @throws IoError
 */
export async function loadHeader(env: ImageEnv): Promise<Header> {
  try {
    const first = await readStart(env, FIRST_READ)
    const clusterSize = clusterSizeOf(first)
    const header = parseHeader(clusterSize <= FIRST_READ ? first : await readStart(env, clusterSize))
    checkHeader(header)
    return header
  } catch (error) {
    if (error instanceof FormatError) throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
}

/** @throws CommandError for an image that somebody found corrupt while writing it */
export function checkWritable({ incompatible }: Header): void {
  if (incompatible.has(Incompatible.corrupt))
    throw new CommandError('qcow2: Image is corrupt; cannot be opened read/write')
}

/**
 * The header as the node shows the image: of an internal snapshot with its L1 table and size in place of the disk's, and without
 * bitmaps, which are of the disk.
 * @throws CommandError when there is no such snapshot, or its entry leads nowhere; and as loadHeader() does
 * @throws IoError
 */
export async function loadShown(env: ImageEnv): Promise<Header> {
  const header = await loadHeader(env)
  if (env.snapshot === undefined) return header
  const { name, by } = env.snapshot
  const { list } = await loadSnapshots(new Image(env, header))
  const found =
    list.find(({ id }) => by !== 'name' && id === name) ??
    list.find((snapshot) => by !== 'id' && snapshot.name === name)
  if (found === undefined) throw new CommandError(`Can't find snapshot '${name}'`)
  const { l1Offset, l1Size, diskSize: size = header.size } = found
  if (!hasPossibleL1(found, 2 ** header.clusterBits) || !Number.isSafeInteger(size))
    throw new CommandError(`Snapshot '${name}' has no valid L1 table`)
  const extensions = header.extensions.filter(({ type }) => type !== ExtensionType.bitmaps)
  const shown = { ...header, l1Offset, l1Size, size, extensions }
  try {
    checkHeader(shown)
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
    throw new CommandError(`Snapshot '${name}': ${error.message}`, 'GenericError', { cause: error })
  }
  return shown
}

async function readStart(env: ImageEnv, length: number): Promise<Uint8Array> {
  const { file, buffers } = env
  const there = Math.min(length, file.length())
  const bytes = new Uint8Array(there)
  using loan = await buffers.tables.take()
  const [buffer] = loan.slices
  for (let done = 0; buffer !== undefined && done < there; ) {
    const slice = { ...buffer, length: Math.min(buffer.length, Math.ceil((there - done) / 512) * 512) }
    await file.read(done, slice)
    const from = buffers.engine.slotBytes(slice.slot)
    const taken = Math.min(slice.length, there - done)
    bytes.set(from.subarray(slice.offset, slice.offset + taken), done)
    done += taken
  }
  return bytes
}

function checkHeader(header: Header): void {
  const clusterSize = 2 ** header.clusterBits
  if (header.encryption !== 'none')
    throw new FormatError(`Encrypted images (${header.encryption}) are not supported`)
  const extended = header.incompatible.has(Incompatible.extendedL2)
  if (extended && header.clusterBits < 14)
    throw new FormatError('Extended L2 entries need clusters of at least 16384 bytes')
  checkTable(header.l1Offset, header.l1Size * 8, MAX_L1, 'Active L1 table', clusterSize)
  const tableSize = header.refcountTableClusters * clusterSize
  if (header.refcountTableClusters === 0)
    throw new FormatError('Image does not contain a reference count table')
  checkTable(header.refcountTableOffset, tableSize, MAX_REFCOUNT_TABLE, 'Reference count table', clusterSize)
  if (header.snapshotCount > MAX_SNAPSHOTS) throw new FormatError('Snapshot table too large')
  checkTable(header.snapshotsOffset, 0, 0, 'Snapshot table', clusterSize)
  const span = (clusterSize / (extended ? 16 : 8)) * clusterSize
  if (header.l1Size < Math.ceil(header.size / span)) throw new FormatError('L1 table is too small')
  if (header.size > 0 && header.l1Offset === 0) throw new FormatError('Active L1 table offset invalid')
}

function checkTable(offset: number, size: number, limit: number, name: string, clusterSize: number): void {
  if (size > limit) throw new FormatError(`${name} too large`)
  if (offset % clusterSize !== 0 || !Number.isSafeInteger(offset + size))
    throw new FormatError(`${name} offset invalid`)
}

export interface SnapshotTable {
  readonly list: readonly Snapshot[]
  /** Bytes. */
  readonly size: number
}

/**
 * What lies beyond the end of the file reads as zero; where L1 tables are is looked at by those who go by them.
 * @throws CommandError when the table is malformed, or larger than any that makes sense
 */
export async function loadSnapshots(image: Image): Promise<SnapshotTable> {
  const { snapshotCount, snapshotsOffset } = image.header
  const snapshots: Snapshot[] = []
  let bytes: Uint8Array = new Uint8Array(0)
  let from = snapshotsOffset
  try {
    while (snapshots.length < snapshotCount) {
      if (from - snapshotsOffset > MAX_SNAPSHOT_TABLE) throw new FormatError('Snapshot table is too big')
      const found = parseSnapshot(bytes, 0, snapshots.length)
      if (found === undefined) {
        bytes = await image.read(from, Math.max(4096, bytes.length * 2))
        continue
      }
      snapshots.push(found.snapshot)
      from += found.next
      bytes = bytes.subarray(found.next)
    }
  } catch (error) {
    if (error instanceof FormatError) throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
  return { list: snapshots, size: from - snapshotsOffset }
}
