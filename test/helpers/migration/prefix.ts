// SPDX-License-Identifier: Apache-2.0
// The promise of every parser of a growing prefix: it waits for missing bytes, and more of them do not change its mind.

import type { Test } from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import type { Parsed } from '../../../protocol/migration/bytes.js'

export type PrefixParser<T> = (bytes: Uint8Array) => Parsed<T> | undefined

/**
 * Parses every prefix of `whole`, and `whole` with other bytes behind it.
 * @param whole  one thing, and `ahead` bytes that its parser has to see behind it
 * @returns the value
 */
export function parsesWhenWhole<T>(t: Test, whole: Uint8Array, parse: PrefixParser<T>, ahead = 0): T {
  const found = parse(whole)
  if (found === undefined) throw new Error('more bytes are needed')
  t.equal(found.length, whole.length - ahead, 'takes its bytes and no more')
  const early: number[] = []
  for (let length = 0; length < whole.length; length++)
    if (parse(whole.subarray(0, length)) !== undefined) early.push(length)
  t.same(early, [], 'waits for its last byte')
  for (const fill of [0x00, 0x01, 0x10, 0xff]) {
    const longer = new Uint8Array(whole.length + 64).fill(fill)
    longer.set(whole)
    t.same(parse(longer), found, `with bytes ${fill} behind it`)
  }
  return found.value
}

export type Outcome = 'value' | 'more' | 'refused'

/** What a parser makes of bytes; any error but FormatError is thrown on. */
export function outcome(parse: PrefixParser<unknown>, bytes: Uint8Array): Outcome {
  try {
    return parse(bytes) === undefined ? 'more' : 'value'
  } catch (error) {
    if (error instanceof FormatError) return 'refused'
    throw error
  }
}

/** Bytes of texts (each character one byte) and of numbers, one after the other. */
export function bytesOf(...parts: readonly (string | number | readonly number[] | Uint8Array)[]): Uint8Array {
  return Uint8Array.from(
    parts.flatMap((part) => {
      if (typeof part === 'string') return [...Buffer.from(part, 'latin1')]
      return typeof part === 'number' ? [part] : [...part]
    }),
  )
}

export function be16(value: number): Uint8Array {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function be32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function be64(value: number | bigint): Uint8Array {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** A counted string. */
export function counted(text: string): Uint8Array {
  const bytes = Buffer.from(text)
  return bytesOf(bytes.length, bytes)
}
