// SPDX-License-Identifier: Apache-2.0
// x-memory: a leaf in memory, for tests. Contents are gone when the node is.

import { type Members, required, size } from '../types.js'

const options = {
  size: required(size, 'Size, bytes.'),
} satisfies Members

export const memory = { options }
