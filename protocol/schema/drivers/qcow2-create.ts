// SPDX-License-Identifier: Apache-2.0
// What blockdev-create can make of a node with driver qcow2.

import { bool, enumOf, int, type Members, optional, required, size, str } from '../types.js'
import { blockdevRef } from './definition.js'

export const preallocMode = enumOf('PreallocMode', ['off', 'metadata', 'falloc', 'full'])

export const qcow2Create = {
  file: required(blockdevRef, 'Node the image is made in; what it holds is lost.'),
  'data-file': optional(blockdevRef, 'Node for the data, apart from the image; without it they are in one.'),
  'data-file-raw': optional(
    bool,
    'The data file is a raw image of the disk by itself, and what it holds already is the disk.',
    { default: false },
  ),
  'x-data-file-cleared': optional(
    bool,
    'What the data file holds is dropped, as qemu-img create drops it, once the options are found to be right.',
    { default: false },
  ),
  'extended-l2': optional(bool, 'Clusters have 32 subclusters that are allocated one by one.', {
    default: false,
  }),
  size: required(size, 'Size of the virtual disk, bytes, a multiple of 512.'),
  version: optional(enumOf('BlockdevQcow2Version', ['v2', 'v3']), 'v2 is read by the oldest programs.', {
    default: 'v3',
  }),
  'backing-file': optional(
    str,
    'Image that shows through where nothing is allocated, as the new one names it.',
  ),
  'cluster-size': optional(size, 'Unit of allocation, bytes: a power of two from 512 to 2 MiB.', {
    default: 65536,
  }),
  preallocation: optional(
    preallocMode,
    'off: tables and data grow as they are written; metadata: tables are whole; falloc: space is reserved too; full: zeroes are written too.',
    { default: 'off' },
  ),
  'lazy-refcounts': optional(bool, 'Refcounts may lag behind, and are repaired after a crash.', {
    default: false,
  }),
  'refcount-bits': optional(int, 'Width of refcounts, bits: a power of two from 1 to 64.', { default: 16 }),
  'compression-type': optional(
    enumOf('Qcow2CompressionType', ['zlib', 'zstd']),
    'How compressed clusters are compressed.',
    { default: 'zlib' },
  ),
} satisfies Members
