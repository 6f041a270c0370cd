// SPDX-License-Identifier: Apache-2.0
// Whether the bytes of a slice are all zero. Used by nodes with detect-zeroes.

import type { IoEngine } from '../../../native/types.js'
import type { ZeroScan } from './node.js'

const ZEROES = Buffer.alloc(65536)

export function zeroScan(engine: IoEngine): ZeroScan {
  return (slice) => {
    const bytes = engine.slotBytes(slice.slot)
    for (let at = 0; at < slice.length; at += ZEROES.length) {
      const end = Math.min(at + ZEROES.length, slice.length)
      const same = ZEROES.compare(bytes, slice.offset + at, slice.offset + end, 0, end - at) === 0
      if (!same) return false
    }
    return true
  }
}
