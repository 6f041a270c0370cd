// SPDX-License-Identifier: Apache-2.0
// Refcounts of 1 to 64 bits inside a refcount block. Source: docs/interop/qcow2 of QEMU, "Host cluster management".
// Widths below a byte start at the least significant bit.

import { getUint64, setUint64 } from './bytes.js'

/** Largest refcount of a width. Of 64 bits only those count that a number holds exactly. */
export function maxRefcount(order: number): number {
  return order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1
}

/** @param order  the width is 2 ** order bits, 0 … 6 */
export function getRefcount(view: DataView, index: number, order: number): number {
  switch (order) {
    case 3:
      return view.getUint8(index)
    case 4:
      return view.getUint16(index * 2)
    case 5:
      return view.getUint32(index * 4)
    case 6:
      return getUint64(view, index * 8)
    default: {
      const perByte = 8 >> order
      const shift = (index % perByte) << order
      return (view.getUint8(Math.floor(index / perByte)) >> shift) & maxRefcount(order)
    }
  }
}

/** @param value  0 … maxRefcount(order) */
export function setRefcount(view: DataView, index: number, order: number, value: number): void {
  if (order === 3) view.setUint8(index, value)
  else if (order === 4) view.setUint16(index * 2, value)
  else if (order === 5) view.setUint32(index * 4, value)
  else if (order === 6) setUint64(view, index * 8, value)
  else {
    const perByte = 8 >> order
    const byte = Math.floor(index / perByte)
    const shift = (index % perByte) << order
    const others = view.getUint8(byte) & ~(maxRefcount(order) << shift)
    view.setUint8(byte, others | (value << shift))
  }
}
