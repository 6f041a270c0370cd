// SPDX-License-Identifier: Apache-2.0
// The images and workloads that power cuts are tried on.

import type { Kind } from './scenario.js'
import type { Weights } from './workload.js'

const KiB = 1024
const MIXED: Weights = { write: 6, zero: 2, discard: 2, flush: 2 }

export const kinds: readonly Kind[] = [
  {
    name: 'clusters of 64 KiB',
    options: 'cluster_size=64k',
    size: 1024 * KiB,
    shape: { weights: MIXED, clusterSize: 65536, longest: 400, largest: 0 },
    rounds: 25,
  },
  {
    name: 'refcount blocks that fill fast, and a refcount table that grows',
    options: 'cluster_size=512,refcount_bits=64',
    size: 1856 * KiB,
    full: true,
    snapshot: true,
    shape: {
      weights: { write: 20, zero: 1, discard: 1, flush: 2 },
      clusterSize: 512,
      longest: 1500,
      largest: 0,
    },
    rounds: 6,
  },
  {
    name: 'version 2 over a backing file',
    options: 'compat=0.10,cluster_size=4k',
    size: 512 * KiB,
    backing: 300 * KiB,
    shape: { weights: MIXED, clusterSize: 4096, longest: 100, largest: 0 },
    rounds: 30,
  },
  {
    name: 'parts of clusters over a backing file',
    options: 'cluster_size=4k',
    size: 512 * KiB,
    backing: 300 * KiB,
    shape: { weights: MIXED, clusterSize: 4096, longest: 20, largest: 0 },
    rounds: 40,
  },
  {
    name: 'subclusters over a backing file',
    options: 'cluster_size=16k,extended_l2=on',
    size: 512 * KiB,
    backing: 400 * KiB,
    shape: { weights: MIXED, clusterSize: 16384, longest: 60, largest: 0 },
    rounds: 40,
  },
  {
    name: 'compressed clusters among others, zlib',
    options: 'cluster_size=4k,refcount_bits=8',
    size: 512 * KiB,
    shape: { weights: { ...MIXED, packed: 6 }, clusterSize: 4096, longest: 100, largest: 0 },
    rounds: 30,
  },
  {
    name: 'compressed clusters among others, zstd',
    options: 'cluster_size=1k,compression_type=zstd',
    size: 256 * KiB,
    shape: { weights: { ...MIXED, packed: 6 }, clusterSize: 1024, longest: 60, largest: 0 },
    rounds: 30,
  },
  {
    name: 'a snapshot that shares everything',
    options: 'cluster_size=512',
    size: 512 * KiB,
    snapshot: true,
    shape: { weights: { ...MIXED, packed: 1 }, clusterSize: 512, longest: 100, largest: 0 },
    rounds: 25,
  },
  {
    name: 'a snapshot of subclusters',
    options: 'cluster_size=16k,extended_l2=on',
    size: 1024 * KiB,
    snapshot: true,
    shape: { weights: MIXED, clusterSize: 16384, longest: 60, largest: 0 },
    rounds: 30,
  },
  {
    name: 'refcounts of one bit',
    options: 'cluster_size=1k,refcount_bits=1',
    size: 512 * KiB,
    shape: { weights: { ...MIXED, packed: 2 }, clusterSize: 1024, longest: 200, largest: 0 },
    rounds: 30,
  },
  {
    name: 'a disk that changes its size',
    options: 'cluster_size=512',
    size: 256 * KiB,
    shape: { weights: { ...MIXED, resize: 2 }, clusterSize: 512, longest: 100, largest: 5120 * KiB },
    rounds: 20,
  },
  {
    name: 'a disk over a backing file that changes its size',
    options: 'cluster_size=4k',
    size: 256 * KiB,
    backing: 400 * KiB,
    shape: { weights: { ...MIXED, resize: 2 }, clusterSize: 4096, longest: 100, largest: 600 * KiB },
    rounds: 25,
  },
  {
    name: 'a data file',
    options: 'cluster_size=4k',
    size: 512 * KiB,
    dataFile: true,
    shape: { weights: { ...MIXED, resize: 1 }, clusterSize: 4096, longest: 100, largest: 600 * KiB },
    rounds: 25,
  },
  {
    name: 'a raw data file',
    options: 'cluster_size=4k,data_file_raw=on',
    size: 512 * KiB,
    dataFile: true,
    shape: { weights: { ...MIXED, resize: 1 }, clusterSize: 4096, longest: 100, largest: 600 * KiB },
    rounds: 25,
  },
]
