// SPDX-License-Identifier: Apache-2.0
// null-co, null-aio: leaves without storage, for measuring everything else.

import { bool, int, type Members, optional, uint64 } from '../types.js'

const options = {
  size: optional(int, 'Size, bytes.', { default: 1073741824 }),
  'latency-ns': optional(uint64, 'Time each request takes, nanoseconds.', { default: 0 }),
  'read-zeroes': optional(bool, 'Reads give zeroes; else the buffer keeps what it held.', { default: false }),
} satisfies Members

export const nullLeaf = { options }
