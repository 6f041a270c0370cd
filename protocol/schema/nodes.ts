// SPDX-License-Identifier: Apache-2.0
// Nodes: how they are defined, changed and shown.

import { setDefinition } from './drivers/definition.js'
import { blockdevDriver, type DriverName, drivers } from './drivers/index.js'
import { oldestRequest } from './jobs.js'
import {
  any,
  arrayOf,
  bool,
  command,
  enumOf,
  type InferMembers,
  int,
  lazy,
  type Members,
  optional,
  required,
  type StructType,
  size,
  str,
  struct,
  uint32,
  union,
} from './types.js'

const detectZeroes = enumOf('BlockdevDetectZeroesOptions', ['off', 'on', 'unmap'])

const cacheOptions = struct('BlockdevCacheOptions', {
  direct: optional(bool, 'Bypass the page cache (O_DIRECT).', { default: false }),
  'no-flush': optional(bool, 'Ignore flushes: fast and not durable.', { default: false }),
})

const nodeBase = {
  driver: required(blockdevDriver, 'Driver of the node.'),
  'node-name': optional(str, 'Name of the node; needed at the root, generated for children without one.'),
  discard: optional(enumOf('BlockdevDiscardOptions', ['ignore', 'unmap']), 'What becomes of discards.', {
    default: 'ignore',
  }),
  cache: optional(cacheOptions, "Caching; a child without it takes its parent's."),
  active: optional(bool, 'Nodes are active from the start: false is refused.', { default: true }),
  'read-only': optional(bool, 'Open for reading only.', { default: false }),
  'auto-read-only': optional(bool, 'Fall back to reading only where writing is not allowed.', {
    default: false,
  }),
  'force-share': optional(bool, 'Take no locks against other users; needs read-only.', { default: false }),
  'detect-zeroes': optional(detectZeroes, 'Turn writes of zeroes into zero requests.', { default: 'off' }),
} satisfies Members

type DriverOptions = { readonly [N in DriverName]: (typeof drivers)[N]['options'] }

/** `driver`, the members of every node, and the driver's own. */
export const blockdevOptions = union(
  'BlockdevOptions',
  nodeBase,
  'driver',
  Object.fromEntries(Object.entries(drivers).map(([name, { options }]) => [name, options])) as DriverOptions,
)
setDefinition(blockdevOptions)

const cacheInfo = struct('BlockdevCacheInfo', {
  writeback: required(bool, 'Writes complete before they are durable.'),
  direct: required(bool, 'The page cache is bypassed.'),
  'no-flush': required(bool, 'Flushes are ignored.'),
})

const dirtyBitmap = struct('BlockDirtyInfo', {
  name: optional(str, 'Name; a job has an unnamed one.'),
  count: required(int, 'Bytes that are dirty.'),
  granularity: required(int, 'Bytes per bit.'),
  recording: required(bool, 'Writes are recorded.'),
  busy: required(bool, 'In use by an operation.'),
  persistent: required(bool, 'Stored in the image.'),
  inconsistent: optional(bool, 'It was not stored when its image was closed: it can only be removed.'),
})

const imageInfoFile = struct('ImageInfoSpecificFile', {})

const imageBitmap = struct('Qcow2BitmapInfo', {
  name: required(str, 'Name.'),
  granularity: required(int, 'Bytes per bit.'),
  flags: required(
    arrayOf(enumOf('Qcow2BitmapInfoFlags', ['in-use', 'auto'])),
    'in-use: it was not saved and cannot be trusted; auto: it records all writes.',
  ),
})

const imageInfoQcow2 = struct('ImageInfoSpecificQCow2', {
  compat: required(str, 'Version: 0.10 or 1.1.'),
  'data-file': optional(str, 'Data file, as the image names it.'),
  'data-file-raw': optional(bool, 'The data file alone is the whole content.'),
  'extended-l2': optional(bool, 'Clusters have subclusters.'),
  'lazy-refcounts': optional(bool, 'The image allows refcounts to be written late.'),
  corrupt: optional(bool, 'Marked corrupt: only to be read.'),
  'refcount-bits': required(int, 'Width of refcounts, bits.'),
  bitmaps: optional(arrayOf(imageBitmap), 'Bitmaps stored in the image.'),
  'compression-type': required(enumOf('Qcow2CompressionType', ['zlib', 'zstd']), 'Of compressed clusters.'),
})

const imageSpecific = union(
  'ImageInfoSpecific',
  { type: required(enumOf('ImageInfoSpecificKind', ['qcow2', 'file']), 'Driver.') },
  'type',
  {
    qcow2: { data: required(imageInfoQcow2, 'What the image says of itself.') },
    file: { data: required(imageInfoFile, 'Nothing so far.') },
  },
)

const snapshotInfo = struct('SnapshotInfo', {
  id: required(str, 'Unique id.'),
  name: required(str, 'Name.'),
  'vm-state-size': required(int, 'Size of the saved machine state, bytes.'),
  'date-sec': required(int, 'When it was made, seconds since 1970.'),
  'date-nsec': required(int, 'Nanoseconds of that.'),
  'vm-clock-sec': required(int, 'How long the guest had run, seconds.'),
  'vm-clock-nsec': required(int, 'Nanoseconds of that.'),
  icount: optional(int, 'Instructions the guest had run, where they were counted.'),
})

const imageMembers = {
  filename: required(str, 'What the node shows as its file name.'),
  format: required(str, 'Driver.'),
  'dirty-flag': optional(bool, 'The image was not closed properly.'),
  'actual-size': optional(int, 'Storage in use, bytes; absent where it cannot be told.'),
  'virtual-size': required(int, 'Size, bytes.'),
  'cluster-size': optional(int, 'Unit of allocation, bytes.'),
  'backing-filename': optional(str, 'Backing file, as the image names it.'),
  'full-backing-filename': optional(str, 'Backing file, as it is found from here.'),
  'backing-filename-format': optional(str, 'Format of the backing file, as the image says.'),
  snapshots: optional(arrayOf(snapshotInfo), 'Snapshots stored in the image.'),
  'format-specific': optional(imageSpecific, 'More, by driver.'),
} satisfies Members

export interface ImageInfo extends InferMembers<typeof imageMembers> {
  readonly 'backing-image'?: ImageInfo
}

const imageInfo: StructType<ImageInfo> = struct('ImageInfo', {
  ...imageMembers,
  'backing-image': optional(
    lazy<ImageInfo>(() => imageInfo),
    'The same of the backing file.',
  ),
})

const blockDeviceInfo = struct('BlockDeviceInfo', {
  file: required(str, 'What the node shows as its file name.'),
  'node-name': optional(str, 'Name of the node.'),
  ro: required(bool, 'Read-only.'),
  drv: required(str, 'Driver.'),
  backing_file: optional(str, 'Backing file.'),
  backing_file_depth: required(int, 'Number of backing files below.'),
  active: required(bool, 'Always true.'),
  encrypted: required(bool, 'Always false.'),
  detect_zeroes: required(detectZeroes, 'As defined.'),
  bps: required(int, 'Always 0: limits belong to throttle groups.'),
  bps_rd: required(int, 'Always 0.'),
  bps_wr: required(int, 'Always 0.'),
  iops: required(int, 'Always 0.'),
  iops_rd: required(int, 'Always 0.'),
  iops_wr: required(int, 'Always 0.'),
  image: required(imageInfo, 'The image.'),
  cache: required(cacheInfo, 'Caching.'),
  write_threshold: required(int, 'Always 0.'),
  'dirty-bitmaps': optional(arrayOf(dirtyBitmap), 'Bitmaps of the node.'),
})

const mapExtent = struct('x-MapExtent', {
  offset: required(int, 'Where it begins, bytes.'),
  length: required(int, 'Bytes.'),
  zero: required(bool, 'Proved to read as zeroes.'),
  allocated: required(bool, 'Stored in this layer.'),
  depth: required(int, 'Layers of the backing chain above the one it was found in.'),
  host: optional(
    int,
    "Where it lies in that layer's storage, bytes; absent where it is nowhere in one piece.",
  ),
  compressed: required(bool, 'Stored compressed.'),
  hole: required(bool, 'Zero at a place for data: the storage of a preallocated image has a hole there.'),
  absent: required(bool, 'In no layer: never written.'),
})

const blockInfo = struct('BlockInfo', {
  device: required(str, 'Name of the drive.'),
  type: required(str, 'Kind of drive.'),
  removable: required(bool, 'Medium can be removed.'),
  locked: required(bool, 'Medium is locked.'),
  inserted: optional(blockDeviceInfo, 'The medium.'),
})

const counters = {
  rd_bytes: required(int, 'Bytes read.'),
  wr_bytes: required(int, 'Bytes written.'),
  zone_append_bytes: required(int, 'Always 0.'),
  unmap_bytes: required(int, 'Bytes discarded.'),
  rd_operations: required(int, 'Reads.'),
  wr_operations: required(int, 'Writes.'),
  zone_append_operations: required(int, 'Always 0.'),
  flush_operations: required(int, 'Flushes.'),
  unmap_operations: required(int, 'Discards.'),
  rd_total_time_ns: required(int, 'Always 0: times are not taken.'),
  wr_total_time_ns: required(int, 'Always 0: times are not taken.'),
  zone_append_total_time_ns: required(int, 'Always 0.'),
  flush_total_time_ns: required(int, 'Always 0: times are not taken.'),
  unmap_total_time_ns: required(int, 'Always 0: times are not taken.'),
  wr_highest_offset: required(int, 'One past the highest byte written.'),
  rd_merged: required(int, 'Always 0.'),
  wr_merged: required(int, 'Always 0.'),
  zone_append_merged: required(int, 'Always 0.'),
  unmap_merged: required(int, 'Always 0.'),
  failed_rd_operations: required(int, 'Reads that failed.'),
  failed_wr_operations: required(int, 'Writes that failed.'),
  failed_zone_append_operations: required(int, 'Always 0.'),
  failed_flush_operations: required(int, 'Flushes that failed.'),
  failed_unmap_operations: required(int, 'Always 0.'),
  invalid_rd_operations: required(int, 'Always 0.'),
  invalid_wr_operations: required(int, 'Always 0.'),
  invalid_zone_append_operations: required(int, 'Always 0.'),
  invalid_flush_operations: required(int, 'Always 0.'),
  invalid_unmap_operations: required(int, 'Always 0.'),
  account_invalid: required(bool, 'Always false.'),
  account_failed: required(bool, 'Always false.'),
  timed_stats: required(arrayOf(any), 'Always empty.'),
} satisfies Members

const discardCounters = {
  'discard-nb-ok': required(int, 'Discards that worked.'),
  'discard-nb-failed': required(int, 'Always 0.'),
  'discard-bytes-ok': required(int, 'Bytes discarded.'),
} satisfies Members

const driverStats = union('BlockStatsSpecific', { driver: required(blockdevDriver, 'Driver.') }, 'driver', {
  file: discardCounters,
  host_device: discardCounters,
})

const blockStatsMembers = {
  device: optional(str, 'Name of the drive.'),
  'node-name': optional(str, 'Name of the node.'),
  stats: required(struct('BlockDeviceStats', counters), 'Counters.'),
  'driver-specific': optional(driverStats, 'More counters, by driver.'),
  'x-oldest-request': optional(oldestRequest, 'The request that waits longest, when one does.'),
} satisfies Members

export interface BlockStats extends InferMembers<typeof blockStatsMembers> {
  readonly parent?: BlockStats
  readonly backing?: BlockStats
}

const blockStats: StructType<BlockStats> = struct('BlockStats', {
  ...blockStatsMembers,
  parent: optional(
    lazy<BlockStats>(() => blockStats),
    'The same of the child that holds the data (the reference daemon calls it so).',
  ),
  backing: optional(
    lazy<BlockStats>(() => blockStats),
    'The same of the backing file.',
  ),
})

export const nodeCommands = {
  'blockdev-add': command({
    doc: 'Opens a node and the children defined inside it.',
    arguments: blockdevOptions,
  }),
  'blockdev-del': command({
    doc: 'Closes a node that nothing uses, and the children that were defined inside it.',
    arguments: struct('blockdev-del-arg', { 'node-name': required(str, 'Name of the node.') }),
  }),
  'blockdev-reopen': command({
    doc: 'Changes options of open nodes, all or none. Options left out return to their defaults.',
    arguments: struct('blockdev-reopen-arg', {
      options: required(arrayOf(blockdevOptions), 'Whole definitions, each with its node-name.'),
    }),
  }),
  block_resize: command({
    doc: 'Changes the size of a node.',
    arguments: struct('block_resize-arg', {
      device: optional(str, 'Name of a drive; nodes are not found by it.'),
      'node-name': optional(str, 'Name of the node.'),
      size: required(int, 'New size, bytes.'),
    }),
  }),
  'query-named-block-nodes': command({
    doc: 'All nodes, the last opened first.',
    arguments: struct('query-named-block-nodes-arg', {
      flat: optional(bool, 'Without images nested in each other.', { default: false }),
    }),
    returns: arrayOf(blockDeviceInfo),
    oob: true,
  }),
  'x-node-map': command({
    doc: 'Extents of a node in ascending order, neighbours that are alike merged. Refused while another program changes the image.',
    arguments: struct('x-node-map-arg', {
      node: required(str, 'Name of the node.'),
      offset: optional(size, 'Where to begin, bytes.', { default: 0 }),
      length: optional(size, 'How far to look, bytes; default to the end.'),
      limit: optional(uint32, 'Extents at most.', { default: 4096 }),
    }),
    returns: arrayOf(mapExtent),
  }),
  'query-block': command({ doc: 'Drives: there are none.', returns: arrayOf(blockInfo) }),
  'query-blockstats': command({
    doc: 'Counters of drives (there are none) or of nodes.',
    arguments: struct('query-blockstats-arg', {
      'query-nodes': optional(bool, 'Of all nodes instead of drives.', { default: false }),
    }),
    returns: arrayOf(blockStats),
    oob: true,
  }),
}
