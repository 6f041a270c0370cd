// SPDX-License-Identifier: Apache-2.0
// What queries show of an image: its size, its format's own facts, and the images below it. From reports alone.

import type { Returns } from '../../../protocol/schema/index.js'
import type { FormatFacts, NodeReport, SnapshotFacts } from '../../iothread/messages.js'
import type { Directory, Node } from '../directory.js'

type ImageInfo = Returns<'query-named-block-nodes'>[number]['image']
type Specific = NonNullable<ImageInfo['format-specific']>
type Snapshot = NonNullable<ImageInfo['snapshots']>[number]

interface Reported {
  readonly node: Node
  readonly report: NodeReport
}

/** The backing file of a node. */
export function backingOf(directory: Directory, node: Node): Reported | undefined {
  const below = directory.child(node, 'backing')
  const report = below && directory.report(below)
  return below && report && { node: below, report }
}

/** Backing files below a node. */
export function backingDepth(directory: Directory, node: Node): number {
  let depth = 0
  for (let below = backingOf(directory, node); below !== undefined; depth++)
    below = backingOf(directory, below.node)
  return depth
}

/** The image with those it is based on inside each other. */
export function imageChain(directory: Directory, node: Node, report: NodeReport): ImageInfo {
  const below = backingOf(directory, node)
  const info = imageInfo(report)
  return below === undefined
    ? info
    : { 'backing-image': imageChain(directory, below.node, below.report), ...info }
}

/** Members in the order in which QEMU's tools print them, here and below. */
export function imageInfo(report: NodeReport): ImageInfo {
  const { driver, filename, format, fullBacking } = report
  const { backingFile, backingFormat, snapshots = [] } = format ?? {}
  return {
    ...(backingFormat !== undefined && { 'backing-filename-format': backingFormat }),
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotInfo) }),
    'virtual-size': report.size,
    filename,
    ...(format && { 'cluster-size': format.clusterSize }),
    format: driver,
    ...(report.allocated !== undefined && { 'actual-size': report.allocated }),
    ...(driver === 'file' && { 'format-specific': { type: 'file', data: {} } as const }),
    ...(format && { 'format-specific': specific(format) }),
    ...(fullBacking !== undefined && { 'full-backing-filename': fullBacking }),
    ...(backingFile !== undefined && { 'backing-filename': backingFile }),
    ...(!isRemote(report) && { 'dirty-flag': format?.dirty ?? false }),
  }
}

/** The bytes of an NBD server as they are: whether it was closed cleanly is not known of it. */
function isRemote({ driver, filename }: NodeReport): boolean {
  return driver === 'nbd' || (driver === 'raw' && /^nbd(\+unix)?:\/\//.test(filename))
}

function specific(format: FormatFacts): Specific {
  const { version, dataFile, dataFileRaw, bitmaps } = format
  const { compression, refcountBits } = format
  if (version === 2)
    return {
      type: 'qcow2',
      data: { compat: '0.10', 'compression-type': compression, 'refcount-bits': refcountBits },
    }
  return {
    type: 'qcow2',
    data: {
      compat: '1.1',
      'compression-type': compression,
      'lazy-refcounts': format.lazyRefcounts,
      ...(bitmaps.length > 0 && {
        bitmaps: bitmaps.map(({ name, granularity, inUse, auto }) => ({
          flags: [...(inUse ? ['in-use' as const] : []), ...(auto ? ['auto' as const] : [])],
          name,
          granularity,
        })),
      }),
      'refcount-bits': refcountBits,
      ...(dataFile !== undefined && { 'data-file': dataFile }),
      ...(dataFileRaw !== undefined && { 'data-file-raw': dataFileRaw }),
      corrupt: format.corrupt,
      'extended-l2': format.extendedL2,
    },
  }
}

const SECOND = 1e9

function snapshotInfo(snapshot: SnapshotFacts): Snapshot {
  return {
    ...(snapshot.icount !== undefined && { icount: snapshot.icount }),
    'vm-clock-nsec': snapshot.guestClock % SECOND,
    name: snapshot.name,
    'date-sec': snapshot.seconds,
    'date-nsec': snapshot.nanoseconds,
    'vm-clock-sec': Math.floor(snapshot.guestClock / SECOND),
    id: snapshot.id,
    'vm-state-size': snapshot.vmStateSize,
  }
}
