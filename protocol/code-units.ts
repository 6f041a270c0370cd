// SPDX-License-Identifier: Apache-2.0
// UTF-16 code units (or ASCII bytes) to a string. Used by the JSON reader and writer.

/**
 * @param units  at most a few thousand
 * apply() takes typed arrays as they are and is seven times as fast as spreading them (Node 20); the type of apply
 * does not say so.
 */
export function fromUnits(units: Uint8Array | Uint16Array): string {
  return String.fromCharCode.apply(null, units as unknown as number[])
}
