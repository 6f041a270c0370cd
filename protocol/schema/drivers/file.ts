// SPDX-License-Identifier: Apache-2.0
// file, host_device: leaves on a file of the host.

import { bool, enumOf, int, type Members, optional, required, size, str } from '../types.js'
import { preallocMode } from './qcow2-create.js'

const locking = enumOf('OnOffAuto', ['auto', 'on', 'off'])
const aio = enumOf('BlockdevAioOptions', ['threads', 'native', 'io_uring'])

const options = {
  filename: required(str, 'Path of the file or device.'),
  locking: optional(
    locking,
    'Locks that keep other programs from writing; auto: where the file system has them.',
    {
      default: 'auto',
    },
  ),
  aio: optional(aio, 'Accepted: the engine is chosen by --aio. native needs cache.direct.', {
    default: 'threads',
  }),
  'aio-max-batch': optional(int, 'Accepted without effect.', { default: 0 }),
  'drop-cache': optional(bool, 'Accepted without effect.', {
    default: true,
  }),
} satisfies Members

const create = {
  filename: required(str, 'Path of the new file; an existing one is emptied.'),
  size: required(size, 'Size of the image, bytes.'),
  preallocation: optional(preallocMode, 'off: sparse; falloc: space reserved; full: zeroes written.', {
    default: 'off',
  }),
  nocow: optional(bool, 'What is written is not copied on write, on file systems that would (Btrfs).', {
    default: false,
  }),
} satisfies Members

export const file = { options, create }
export const hostDevice = { options }
