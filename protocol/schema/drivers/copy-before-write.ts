// SPDX-License-Identifier: Apache-2.0
// copy-before-write keeps a node as it was; snapshot-access shows that.

import { bitmap } from '../bitmaps.js'
import { enumOf, type Members, optional, required, size, uint32 } from '../types.js'
import { blockdevRef } from './definition.js'

export const onCbwError = enumOf('OnCbwError', ['break-guest-write', 'break-snapshot'])

const options = {
  file: required(blockdevRef, 'Node that is kept as it is when this one is opened.'),
  target: required(blockdevRef, 'Node that takes what is about to be replaced; at least as large.'),
  bitmap: optional(bitmap, 'Dirty bitmap that says what is kept, and can be read; default: everything.'),
  'on-cbw-error': optional(
    onCbwError,
    'When old content cannot be copied before a write: the write fails, or the snapshot is lost.',
    { default: 'break-guest-write' },
  ),
  'cbw-timeout': optional(
    uint32,
    'Longest time a write waits for that, seconds; then it is as if the copy had failed. 0 = without end.',
    { default: 0 },
  ),
  'min-cluster-size': optional(
    size,
    'Least unit of copying, bytes, a power of two; 0 = 64 KiB, or what the target stores whole.',
    { default: 0 },
  ),
} satisfies Members

export const copyBeforeWrite = { options }

const accessOptions = {
  file: required(blockdevRef, 'A copy-before-write node.'),
} satisfies Members

export const snapshotAccess = { options: accessOptions }
