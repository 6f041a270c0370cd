// SPDX-License-Identifier: Apache-2.0
// Big-endian integers of 64 bits as numbers. Used by the codecs of this folder; offsets and lengths beyond 2^53 do not
// occur in images that can exist, and are refused by whoever reads them.

const HIGH = 2 ** 32

/** May be inexact above 2^53: such a value is out of range for every field, and is refused as that. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * HIGH + view.getUint32(at + 4)
}

/** @param value  a safe integer, >= 0 */
export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / HIGH))
  view.setUint32(at + 4, value % HIGH)
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Rounded up to a multiple of 8, as everything of variable length is in this format. */
export function padded(length: number): number {
  return Math.ceil(length / 8) * 8
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

/** Names and strings, as they are: a byte order mark is part of a file's name. */
export function textOf(bytes: Uint8Array): string {
  return utf8.decode(bytes)
}
