// SPDX-License-Identifier: Apache-2.0
// Pages as records of a migration stream, written as the format says it.

import type { Range } from '../../native/types.js'

const PAGE = 0x08
const CONTINUE = 0x20

/**
 * @param pages  in the block
 * @param data   all of them, one behind the other
 * @param first  what stands before the first
 */
export function records(
  pages: readonly Range[],
  pageSize: number,
  data: Uint8Array,
  first: Uint8Array,
): Buffer {
  const parts: Uint8Array[] = []
  let at = 0
  for (const { offset, length } of pages) {
    for (let page = offset; page < offset + length; page += pageSize) {
      const head = Buffer.alloc(8)
      head.writeBigUInt64BE(BigInt(page) | BigInt(PAGE | CONTINUE))
      parts.push(at === 0 ? first : head, data.subarray(at, at + pageSize))
      at += pageSize
    }
  }
  return Buffer.concat(parts)
}
