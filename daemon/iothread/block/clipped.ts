// SPDX-License-Identifier: Apache-2.0
// Drivers may tell a longer extent than was asked for; users of nodes get the part they asked for. Used by BlockNode.

import type { Extent } from './driver.js'

/** The part of an extent that is in a range. */
export function clipped(extent: Extent, offset: number, length: number): Extent {
  const end = Math.min(extent.offset + extent.length, offset + length)
  if (extent.offset === offset && extent.offset + extent.length === end) return extent
  const { host } = extent
  const part = { ...extent, offset, length: end - offset }
  return host === undefined ? part : { ...part, host: host + offset - extent.offset }
}
