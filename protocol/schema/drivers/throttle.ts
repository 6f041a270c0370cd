// SPDX-License-Identifier: Apache-2.0
// throttle: a filter that shares limits with the other nodes of its group.

import { type Members, required, str } from '../types.js'
import { blockdevRef } from './definition.js'

const options = {
  'throttle-group': required(str, 'Id of the throttle-group object.'),
  file: required(blockdevRef, 'Node that is limited.'),
} satisfies Members

export const throttle = { options }
