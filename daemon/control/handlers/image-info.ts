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

export function imageInfo(report: NodeReport): ImageInfo {
  const { driver, filename, format } = report
  return {
    'virtual-size': report.size,
    filename,
    format: driver,
    ...(report.allocated !== undefined && { 'actual-size': report.allocated }),
    ...(driver === 'file' && { 'format-specific': { type: 'file', data: {} } as const }),
    ...(format && formatInfo(format, report.fullBacking)),
    'dirty-flag': format?.dirty ?? false,
  }
}

function formatInfo(format: FormatFacts, fullBacking: string | undefined): Partial<ImageInfo> {
  const { backingFile, backingFormat, snapshots } = format
  return {
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotInfo) }),
    'cluster-size': format.clusterSize,
    ...(backingFile !== undefined && { 'backing-filename': backingFile }),
    ...(fullBacking !== undefined && { 'full-backing-filename': fullBacking }),
    ...(backingFormat !== undefined && { 'backing-filename-format': backingFormat }),
    'format-specific': specific(format),
  }
}

function specific(format: FormatFacts): Specific {
  const { version, dataFile, bitmaps } = format
  const data = {
    compat: version === 2 ? '0.10' : '1.1',
    'compression-type': format.compression,
    'refcount-bits': format.refcountBits,
  }
  if (version === 2) return { type: 'qcow2', data }
  return {
    type: 'qcow2',
    data: {
      ...data,
      'lazy-refcounts': format.lazyRefcounts,
      ...(bitmaps.length > 0 && {
        bitmaps: bitmaps.map(({ name, granularity, inUse, auto }) => ({
          flags: [...(inUse ? ['in-use' as const] : []), ...(auto ? ['auto' as const] : [])],
          name,
          granularity,
        })),
      }),
      ...(dataFile !== undefined && { 'data-file': dataFile, 'data-file-raw': format.dataFileRaw }),
      corrupt: format.corrupt,
      'extended-l2': format.extendedL2,
    },
  }
}

const SECOND = 1e9

function snapshotInfo(snapshot: SnapshotFacts): Snapshot {
  return {
    id: snapshot.id,
    name: snapshot.name,
    'vm-state-size': snapshot.vmStateSize,
    'date-sec': snapshot.seconds,
    'date-nsec': snapshot.nanoseconds,
    'vm-clock-sec': Math.floor(snapshot.guestClock / SECOND),
    'vm-clock-nsec': snapshot.guestClock % SECOND,
  }
}
