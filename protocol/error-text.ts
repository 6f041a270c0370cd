// SPDX-License-Identifier: Apache-2.0
// How bytes, numbers and names stand in the texts of errors.

/** For texts of errors: nothing in a name can leave the quotes. */
export function quoted(text: string): string {
  return JSON.stringify(text)
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}

/** The first bytes, two digits each. */
export function hexDump(bytes: Uint8Array): string {
  const shown = Array.from(bytes.subarray(0, 16), (byte) => byte.toString(16).padStart(2, '0')).join(' ')
  return bytes.length > 16 ? `${shown} …` : shown
}
