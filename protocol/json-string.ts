// SPDX-License-Identifier: Apache-2.0
// What the bytes of a token mean: strings with escapes and checked UTF-8, and bad bytes made showable.
// Used by JsonStream only. Strings may hold U+0000, never surrogates or noncharacters.

import { fromUnits } from './code-units.js'

const backslash = 0x5c
const replacement = 0xfffd

/** One character beside a backslash, by the byte that stands for it; `u` is not among them. */
const escapes = new Map<number, number>(
  [...'"\'\\/'].map((character) => [character.charCodeAt(0), character.charCodeAt(0)] as [number, number]),
)
for (const [character, code] of ['b\b', 'f\f', 'n\n', 'r\r', 't\t'].map(
  (pair) => [pair[0]!, pair[1]!] as const,
)) {
  escapes.set(character.charCodeAt(0), code.charCodeAt(0))
}

/**
 * Decodes one UTF-8 sequence at `at`; C0 80 is U+0000.
 * @returns `codepoint * 8 + length`; `-length` when the sequence is malformed, overlong, a surrogate, a noncharacter
 *          or beyond U+10FFFF (length: bytes that belong together, at least 1)
 */
function decodeSequence(bytes: Uint8Array, at: number, end: number): number {
  const first = bytes[at]!
  if (first < 0x80) return first * 8 + 1
  const size = Math.clz32(~(first << 24))
  if (size < 2 || size > 6) return -1
  let code = first & (0x7f >> size)
  for (let index = 1; index < size; index++) {
    const byte = at + index < end ? bytes[at + index]! : 0
    if ((byte & 0xc0) !== 0x80) return -index
    code = code * 64 + (byte & 0x3f)
  }
  const overlong = size === 2 ? code < 0x80 && code !== 0 : code < 1 << (5 * size - 4)
  return overlong || !isCharacter(code) ? -size : code * 8 + size
}

/** Scalar values without noncharacters. */
function isCharacter(code: number): boolean {
  if (code > 0x10ffff || (code & 0xfffe) === 0xfffe) return false
  return !(code >= 0xd800 && code <= 0xdfff) && !(code >= 0xfdd0 && code <= 0xfdef)
}

/** Collects UTF-16 units; strings of many megabytes come in one piece, so no string per character. */
class Units {
  #text = ''
  readonly #chunk: Uint16Array
  #length = 0

  /** @param hint  units that will come, about */
  constructor(hint: number) {
    this.#chunk = new Uint16Array(Math.min(Math.max(hint, 16), 4096))
  }

  add(code: number): void {
    if (this.#length + 2 > this.#chunk.length) this.#spill()
    if (code > 0xffff) {
      this.#chunk[this.#length++] = 0xd7c0 + (code >> 10)
      this.#chunk[this.#length++] = 0xdc00 | (code & 0x3ff)
    } else {
      this.#chunk[this.#length++] = code
    }
  }

  take(): string {
    this.#spill()
    return this.#text
  }

  #spill(): void {
    this.#text += fromUnits(this.#chunk.subarray(0, this.#length))
    this.#length = 0
  }
}

function hexDigit(byte: number | undefined): number {
  if (byte === undefined) return -1
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const lower = byte | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}

/** Four hexadecimal digits as a number, -1 when they are not. */
function hex4(bytes: Uint8Array, at: number): number {
  let value = 0
  for (let index = at; index < at + 4; index++) {
    const digit = hexDigit(bytes[index])
    if (digit < 0) return -1
    value = value * 16 + digit
  }
  return value
}

/** The character of `\uXXXX` (or of a surrogate pair) at `at`, the backslash; code -1 when there is none. */
function unicodeEscape(bytes: Uint8Array, at: number): { code: number; length: number } {
  const code = hex4(bytes, at + 2)
  if (code >= 0xd800 && code <= 0xdbff && bytes[at + 6] === backslash && bytes[at + 7] === 0x75) {
    const trailing = hex4(bytes, at + 8)
    if (trailing >= 0xdc00 && trailing <= 0xdfff) {
      const whole = 0x10000 + ((code & 0x3ff) << 10) + (trailing & 0x3ff)
      return { code: isCharacter(whole) ? whole : -1, length: 12 }
    }
  }
  return { code: code >= 0 && isCharacter(code) ? code : -1, length: 6 }
}

/**
 * The string between two quotes.
 * @param from  first byte after the opening quote
 * @param to    the closing quote
 * @returns the string, or what is wrong with it
 * Runs without escapes go through TextDecoder, because a string may be 64 MiB long and everybody waits meanwhile.
 */
export function decodeString(bytes: Uint8Array, from: number, to: number): string | { error: string } {
  let text = ''
  let at = from
  while (at < to) {
    const plain = plainEnd(bytes, at, to)
    const run = plain - at < longRun ? undefined : decodeLongRun(bytes, at, plain)
    if (run !== undefined) {
      text += run
      at = plain
      continue
    }
    const part = decodeSlowly(bytes, at, Math.max(plain, Math.min(to, at + longRun)), to)
    if (part.error !== undefined) return { error: part.error }
    text += part.text
    at = part.next
  }
  return text
}

/** Bytes from which on TextDecoder pays. */
const longRun = 4096
/** What is tried at once. A piece that fails is decoded a second time, so that time stays linear. */
const longestRun = 65536

/** End of the bytes from `at` on that hold no escape and no part of a character; at most 64 KiB later. */
function plainEnd(bytes: Uint8Array, at: number, to: number): number {
  if (to - at < longRun) return at
  const piece = bytes.subarray(at, Math.min(to, at + longestRun))
  const found = piece.indexOf(backslash)
  if (found >= 0) return at + found
  let end = at + piece.length
  while (end < to && end > at && (bytes[end]! & 0xc0) === 0x80) end--
  return end
}

const noncharacter =
  /[\ufdd0-\ufdef\ufffe\uffff]|[\ud83f\ud87f\ud8bf\ud8ff\ud93f\ud97f\ud9bf\ud9ff\uda3f\uda7f\udabf\udaff\udb3f\udb7f\udbbf\udbff][\udffe\udfff]/

/** Undefined when there is something in it that needs a closer look: an error, or C0 80. */
function decodeLongRun(bytes: Uint8Array, from: number, to: number): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes.subarray(from, to))
    return noncharacter.test(text) ? undefined : text
  } catch {
    return undefined
  }
}

interface Part {
  readonly text: string
  /** Where to go on: at `stop` or a few bytes later. */
  readonly next: number
  readonly error?: string
}

/** Character by character, from `from` to the first one that begins at or after `stop`. @param to  the closing quote */
function decodeSlowly(bytes: Uint8Array, from: number, stop: number, to: number): Part {
  const units = new Units(stop - from)
  let at = from
  while (at < stop) {
    if (bytes[at] !== backslash) {
      const sequence = decodeSequence(bytes, at, to)
      if (sequence < 0) return { text: '', next: at, error: 'invalid UTF-8 sequence in string' }
      units.add(sequence >> 3)
      at += sequence & 7
      continue
    }
    const plain = escapes.get(bytes[at + 1]!)
    if (plain !== undefined) {
      units.add(plain)
      at += 2
      continue
    }
    if (bytes[at + 1] !== 0x75) return { text: '', next: at, error: 'invalid escape sequence in string' }
    const { code, length } = unicodeEscape(bytes, at)
    if (code < 0) {
      const shown = showBytes(bytes, at, Math.min(at + length, to + 1))
      return { text: '', next: at, error: `${shown} is not a valid Unicode character` }
    }
    units.add(code)
    at += length
  }
  return { text: units.take(), next: at }
}

/** Longest text of the peer that an error message repeats, bytes. */
const showLimit = 1024

/** Bytes for an error message: up to the first NUL, bad sequences as U+FFFD, cut after 1024 bytes. */
export function showBytes(bytes: Uint8Array, from: number, to: number): string {
  const units = new Units(Math.min(to - from, showLimit))
  const end = Math.min(to, from + showLimit)
  let at = from
  while (at < end && bytes[at] !== 0) {
    const sequence = decodeSequence(bytes, at, to)
    units.add(sequence < 0 ? replacement : sequence >> 3)
    at += sequence < 0 ? -sequence : sequence & 7
  }
  return units.take()
}
