// SPDX-License-Identifier: Apache-2.0
// Big-endian fields of migration streams: a reader for bytes that may end anywhere, and a writer. Used by the codecs of
// this folder.
// Rule: a parser of a growing prefix returns its value with its length, or undefined while bytes are missing, and throws
// as soon as what is there is wrong. Nothing is allocated for bytes that are not there.

import type { FormatError } from '../format-error.js'
import { hex, hexDump, quoted, unexpected } from './error-text.js'

/** What a parser found at the start of the bytes, and how many of them it took. */
export interface Parsed<T> {
  readonly value: T
  readonly length: number
}

/** Longest counted string: its length is one byte. */
const MAX_NAME = 255
const HIGH = 2 ** 32

/** Never leaves this file: what a reader throws when the bytes end too early. One object, as a stack would cost time. */
const shortage = new Error('more bytes are needed')

/**
 * Runs a parser over bytes that may end anywhere.
 * @param origin  offset of the first byte in its stream or file; only for texts of errors
 * @returns undefined when more bytes are needed
 * @throws FormatError
 */
export function parsePrefix<T>(
  bytes: Uint8Array,
  origin: number,
  parse: (reader: Reader) => T,
): Parsed<T> | undefined {
  const reader = new Reader(bytes, origin)
  try {
    return { value: parse(reader), length: reader.used }
  } catch (error) {
    if (error === shortage) return undefined
    throw error
  }
}

/** Reads fields one after the other; asking for more than there is ends parsePrefix(). */
export class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #origin: number
  #at = 0
  /** Where the field begins that was read last. */
  #field = 0

  constructor(bytes: Uint8Array, origin: number) {
    // A Buffer's slice() would be a view, not a copy.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#origin = origin
  }

  /** Bytes read so far. */
  get used(): number {
    return this.#at
  }

  u8(): number {
    return this.#view.getUint8(this.#step(1))
  }

  u16(): number {
    return this.#view.getUint16(this.#step(2))
  }

  u32(): number {
    return this.#view.getUint32(this.#step(4))
  }

  /** @throws FormatError above 2^53: no offset, length or count of these formats is so large */
  u64(thing: string): number {
    const at = this.#step(8)
    const value = this.#view.getUint32(at) * HIGH + this.#view.getUint32(at + 4)
    if (Number.isSafeInteger(value)) return value
    throw this.wrong(thing, hex(this.#view.getBigUint64(at)), 'less than 2^53')
  }

  /** A view of the next bytes, not a copy. */
  take(length: number): Uint8Array {
    const at = this.#step(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** The byte `ahead` of the next one, which stays where it is. */
  peek(ahead = 0): number {
    return this.#bytes[this.#within(ahead + 1) + ahead] ?? 0
  }

  /** The 64 bits that begin `ahead` bytes further on; nothing is taken. May be inexact above 2^53. */
  peek64(ahead: number): number {
    const at = this.#within(ahead + 8) + ahead
    return this.#view.getUint32(at) * HIGH + this.#view.getUint32(at + 4)
  }

  /** Takes bytes that have to be these; a wrong one is seen before the others are there. */
  constant(expected: Uint8Array, thing: string): void {
    const there = Math.min(expected.length, this.#bytes.length - this.#at)
    for (let index = 0; index < there; index++) {
      const found = this.#bytes[this.#at + index] ?? 0
      if (found === expected[index]) continue
      this.#field = this.#at + index
      throw this.wrong(thing, hex(found), hex(expected[index] ?? 0))
    }
    this.#step(expected.length)
  }

  /** A counted string: one byte with its length, 1 to 255, then UTF-8 without NUL. */
  name(thing: string): string {
    return this.text(this.u8(), thing)
  }

  /** @param length  bytes, as read from the field just before */
  text(length: number, thing: string): string {
    if (length === 0 || length > MAX_NAME)
      throw this.wrong(thing, `${length} bytes`, `1 to ${MAX_NAME} bytes`)
    const bytes = this.take(length)
    const text = textOf(bytes)
    if (text !== undefined && !bytes.includes(0)) return text
    throw this.wrong(thing, hexDump(bytes), 'text in UTF-8')
  }

  /** The error for the field read last. */
  wrong(thing: string, found: string | number, expected: string | number): FormatError {
    return unexpected(`${thing} at offset ${this.#origin + this.#field}`, found, expected)
  }

  #within(length: number): number {
    if (length > this.#bytes.length - this.#at) throw shortage
    return this.#at
  }

  #step(length: number): number {
    this.#field = this.#within(length)
    this.#at += length
    return this.#field
  }
}

/** Collects fields. Values that do not fit are mistakes of the caller, but for names: those come from outside. */
export class Writer {
  #bytes = new Uint8Array(256)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  u8(value: number): this {
    const at = this.#step(1)
    this.#view.setUint8(at, value)
    return this
  }

  u16(value: number): this {
    const at = this.#step(2)
    this.#view.setUint16(at, value)
    return this
  }

  u32(value: number): this {
    const at = this.#step(4)
    this.#view.setUint32(at, value)
    return this
  }

  /** @param value  a safe integer, >= 0 */
  u64(value: number): this {
    const at = this.#step(8)
    this.#view.setUint32(at, Math.floor(value / HIGH))
    this.#view.setUint32(at + 4, value % HIGH)
    return this
  }

  raw(bytes: Uint8Array): this {
    const at = this.#step(bytes.length)
    this.#bytes.set(bytes, at)
    return this
  }

  /**
   * A counted string.
   * @throws FormatError when it cannot be one
   */
  name(text: string): this {
    const bytes = nameBytes(text)
    return this.u8(bytes.length).raw(bytes)
  }

  /** A copy of all that was written. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }

  /** Makes room, which replaces the buffer: to be called before the buffer is named. */
  #step(length: number): number {
    const at = this.#length
    this.#length += length
    if (this.#length <= this.#bytes.length) return at
    const larger = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length))
    larger.set(this.#bytes)
    this.#bytes = larger
    this.#view = new DataView(larger.buffer)
    return at
  }
}

/** @throws FormatError unless the text is 1 to 255 bytes of UTF-8 without NUL */
export function nameBytes(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text)
  if (bytes.length > 0 && bytes.length <= MAX_NAME && !bytes.includes(0)) return bytes
  throw unexpected(`name ${quoted(text)}`, `${bytes.length} bytes`, `1 to ${MAX_NAME} bytes without NUL`)
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true })

/** undefined: not UTF-8. So text that is read is written as it was. */
export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes)
  } catch {
    return undefined
  }
}
