// SPDX-License-Identifier: Apache-2.0
// compress: a filter that has what is written through it stored compressed.

import { type Members, required } from '../types.js'
import { blockdevRef } from './definition.js'

const options = {
  file: required(blockdevRef, 'Node of a format that can store compressed clusters.'),
} satisfies Members

export const compress = { options }
