// SPDX-License-Identifier: Apache-2.0
// raw: the bytes of a child, or a part of them.

import { bool, int, type Members, optional, required } from '../types.js'
import { blockdevRef } from './definition.js'

const options = {
  file: required(blockdevRef, 'Node that holds the bytes.'),
  offset: optional(int, 'First byte of the child that is shown, a multiple of 512.', { default: 0 }),
  size: optional(int, 'Bytes shown, a multiple of 512; default: up to the end.'),
  'x-guessed': optional(
    bool,
    'Nobody named the format: no beginning of another format may be written. Without offset and size.',
    { default: false },
  ),
} satisfies Members

export const raw = { options }
