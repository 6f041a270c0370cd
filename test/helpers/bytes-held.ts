// SPDX-License-Identifier: Apache-2.0
// Bytes of array buffers that something still holds, in this process.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

export function bytesHeld(): number {
  // Buffers found by one are given back by the next.
  collect()
  collect()
  return process.memoryUsage().arrayBuffers
}
