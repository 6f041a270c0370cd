// SPDX-License-Identifier: Apache-2.0
// qcow2: the format of images that grow, with snapshots and backing files.

import {
  alternate,
  bool,
  enumOf,
  type Infer,
  int,
  type Members,
  optional,
  required,
  str,
  struct,
  union,
} from '../types.js'
import { blockdevRef, blockdevRefOrNull } from './definition.js'

const overlapMode = enumOf('Qcow2OverlapCheckMode', ['none', 'constant', 'cached', 'all'])

const overlapFlags = struct('Qcow2OverlapCheckFlags', {
  template: optional(overlapMode, 'What members that are absent mean.', { default: 'cached' }),
  'main-header': optional(bool, 'Check against the header.'),
  'active-l1': optional(bool, 'Check against the L1 table.'),
  'active-l2': optional(bool, 'Check against L2 tables.'),
  'refcount-table': optional(bool, 'Check against the refcount table.'),
  'refcount-block': optional(bool, 'Check against refcount blocks.'),
  'snapshot-table': optional(bool, 'Check against the snapshot table.'),
  'inactive-l1': optional(bool, 'Check against L1 tables of snapshots.'),
  'inactive-l2': optional(bool, 'Check against L2 tables of snapshots.'),
  'bitmap-directory': optional(bool, 'Check against the bitmap directory.'),
})

const overlapChecks = alternate<Infer<typeof overlapMode> | Infer<typeof overlapFlags>>(
  'Qcow2OverlapChecks',
  () => [overlapFlags, overlapMode],
)

const secret = { 'key-secret': optional(str, 'Id of the secret that holds the key.') } satisfies Members
const encryption = union(
  'BlockdevQcow2Encryption',
  { format: required(enumOf('BlockdevQcow2EncryptionFormat', ['aes', 'luks']), 'Kind of encryption.') },
  'format',
  { aes: secret, luks: secret },
)

const options = {
  file: required(blockdevRef, 'Node that holds the image.'),
  backing: optional(
    blockdevRefOrNull,
    'What shows through where nothing is allocated; null for nothing. Absent: as the image says.',
  ),
  'lazy-refcounts': optional(
    bool,
    'Accepted for images of version 3; refcounts are always written in time, which such an image allows.',
  ),
  'pass-discard-request': optional(bool, "Pass the guest's discards on; default: where discard is unmap."),
  'pass-discard-snapshot': optional(
    bool,
    'Pass on what deleted snapshots, and images that are emptied, free.',
    { default: true },
  ),
  'pass-discard-other': optional(
    bool,
    'Pass on what other changes free. What a smaller disk cuts off is always passed on.',
    { default: false },
  ),
  'discard-no-unref': optional(
    bool,
    'Discarded clusters read as zero and keep their places, so that the image does not fragment.',
    { default: false },
  ),
  'overlap-check': optional(
    overlapChecks,
    'Metadata that writes are kept away from. All of it always is, whatever this says, but L2 tables of snapshots: those where it says so.',
    { default: 'cached' },
  ),
  'cache-size': optional(int, 'Memory for tables altogether, bytes.'),
  'l2-cache-size': optional(int, 'Memory for L2 tables at most, bytes.'),
  'l2-cache-entry-size': optional(
    int,
    'Unit of the L2 cache, bytes, a power of two; default: 4096, at most a cluster.',
  ),
  'refcount-cache-size': optional(int, 'Memory for refcount blocks at most, bytes.'),
  'cache-clean-interval': optional(int, 'After so many seconds unused tables are forgotten; 0: never.', {
    default: 600,
  }),
  encrypt: optional(encryption, 'Encrypted images are refused.'),
  'x-tasks': optional(int, 'Scattered pieces of one request that are read or written at once, 1 to 64.', {
    default: 16,
  }),
  'x-snapshot': optional(
    str,
    'Internal snapshot that is shown in place of the disk, as long as the disk was then; needs read-only.',
  ),
  'x-snapshot-by': optional(
    enumOf('XQcow2SnapshotBy', ['any', 'id', 'name']),
    "What x-snapshot is; any: a snapshot's id, else a snapshot's name.",
    { default: 'any' },
  ),
  'data-file': optional(blockdevRef, "Node that holds the guest's data; absent: as the image says."),
} satisfies Members

export const qcow2 = { options }
