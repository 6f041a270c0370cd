// SPDX-License-Identifier: Apache-2.0
// The persistent bitmaps of an image, read from the bytes of its file.

import { readFileSync } from 'node:fs'
import {
  parseBitmapDirectory,
  parseBitmapsExtension,
  parseBitmapTableEntry,
} from '../../protocol/qcow2/bitmaps.js'
import { viewOf } from '../../protocol/qcow2/bytes.js'
import { ExtensionType, parseHeader } from '../../protocol/qcow2/header.js'

export interface StoredBitmap {
  readonly inUse: boolean
  readonly auto: boolean
  /** Numbers of the bits that are set. */
  readonly bits: number[]
}

export function storedBitmaps(filename: string): Record<string, StoredBitmap> {
  const bytes = readFileSync(filename)
  const header = parseHeader(bytes)
  const data = header.extensions.find(({ type }) => type === ExtensionType.bitmaps)?.data
  if (data === undefined) return {}
  const { directoryOffset, directorySize, count } = parseBitmapsExtension(data)
  const list = parseBitmapDirectory(bytes.subarray(directoryOffset, directoryOffset + directorySize), count)
  const size = 2 ** header.clusterBits
  return Object.fromEntries(
    list.map(({ name, inUse, auto, tableOffset, tableSize }) => {
      const bits: number[] = []
      for (let index = 0; index < tableSize; index++) {
        const { offset, ones } = parseBitmapTableEntry(viewOf(bytes), tableOffset + index * 8)
        for (let bit = 0; bit < size * 8; bit++) {
          const byte = offset === 0 ? 0 : (bytes[offset + (bit >> 3)] ?? 0)
          if (ones || (byte >> (bit & 7)) & 1) bits.push(index * size * 8 + bit)
        }
      }
      return [name, { inUse, auto, bits }]
    }),
  )
}
