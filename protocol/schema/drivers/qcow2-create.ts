// SPDX-License-Identifier: Apache-2.0
// What blockdev-create can make of a node with driver qcow2.

import { bool, enumOf, int, type Members, optional, required, size, str, union } from '../types.js'
import { blockdevRef } from './definition.js'

export const preallocMode = enumOf('PreallocMode', ['off', 'metadata', 'falloc', 'full'])

const hash = enumOf('QCryptoHashAlgo', [
  ...(['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160', 'sm3'] as const),
])
const cipher = enumOf('QCryptoCipherAlgo', [
  ...(['aes-128', 'aes-192', 'aes-256', 'des', '3des', 'cast5-128'] as const),
  ...(['serpent-128', 'serpent-192', 'serpent-256'] as const),
  ...(['twofish-128', 'twofish-192', 'twofish-256', 'sm4'] as const),
])
const secret = { 'key-secret': optional(str, 'Id of the secret that holds the key.') } satisfies Members

/** Known so that it is refused as what it is. */
const encryption = union(
  'QCryptoBlockCreateOptions',
  { format: required(enumOf('QCryptoBlockFormat', ['qcow', 'luks']), 'Kind of encryption.') },
  'format',
  {
    qcow: secret,
    luks: {
      ...secret,
      'cipher-alg': optional(cipher, 'Cipher.'),
      'cipher-mode': optional(enumOf('QCryptoCipherMode', ['ecb', 'cbc', 'xts', 'ctr']), 'Its mode.'),
      'ivgen-alg': optional(enumOf('QCryptoIVGenAlgo', ['plain', 'plain64', 'essiv']), 'Initial vectors.'),
      'ivgen-hash-alg': optional(hash, 'Hash of initial vectors.'),
      'hash-alg': optional(hash, 'Hash of keys.'),
      'iter-time': optional(int, 'How long a key is made to take, milliseconds.'),
    },
  },
)

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
  'x-nocow': optional(
    bool,
    'What is written is not copied on write, on file systems that would (Btrfs): for the files of the image.',
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
  encrypt: optional(encryption, 'Encrypted images are refused.'),
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
