// SPDX-License-Identifier: Apache-2.0
// JSON values as one line of text, laid out like the reference daemon's output: `": "` and `", "` between things,
// ASCII only, upper-case \uXXXX. Used for every reply, event and greeting; no line end is added.
// Rule: what comes out is valid JSON, whatever went in.

import { fromUnits } from './code-units.js'
import { JsonDouble } from './json-value.js'

/** Printable ASCII without `"` and `\`: needs no escape. */
const plain = /^[ !#-[\]-~]*$/

/** What stands after a backslash, by code. */
const shortEscapes: ReadonlyMap<number, number> = new Map(
  [...'\bb\ff\nn\rr\tt""\\\\'.matchAll(/(.)(.)/gs)].map(([, from, to]) => [
    from!.charCodeAt(0),
    to!.charCodeAt(0),
  ]),
)

/**
 * @param value  JsonValue, or plain objects, arrays and numbers; members that are undefined are left out
 * @throws TypeError for what JSON cannot say: undefined, functions, symbols, NaN and infinities
 */
export function toText(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return stringText(value)
    case 'number':
      return Number.isInteger(value) && Math.abs(value) < 2 ** 64 ? integerText(value) : doubleText(value)
    case 'boolean':
      return value ? 'true' : 'false'
    case 'bigint':
      return value.toString()
    case 'object':
      if (value === null) return 'null'
      if (Array.isArray(value)) return arrayText(value)
      if (value instanceof JsonDouble) return doubleText(value.value)
      return objectText(value as Record<string, unknown>)
    default:
      throw new TypeError(`${typeof value} has no JSON form`)
  }
}

function integerText(value: number): string {
  return Number.isSafeInteger(value) ? String(value) : BigInt(value).toString()
}

function arrayText(items: readonly unknown[]): string {
  let text = '['
  for (let index = 0; index < items.length; index++) {
    text += index === 0 ? toText(items[index]) : `, ${toText(items[index])}`
  }
  return `${text}]`
}

function objectText(members: Readonly<Record<string, unknown>>): string {
  let text = '{'
  for (const name in members) {
    const value = members[name]
    if (value === undefined) continue
    text += `${text.length > 1 ? ', ' : ''}${stringText(name)}: ${toText(value)}`
  }
  return `${text}}`
}

/** Units that are escaped at once: all of them may become `\uXXXX`. */
const slice = 1024

function stringText(text: string): string {
  if (plain.test(text)) return `"${text}"`
  let out = '"'
  for (let at = 0; at < text.length; at += slice) out += escaped(text, at, Math.min(at + slice, text.length))
  return `${out}"`
}

function escaped(text: string, from: number, to: number): string {
  const ascii = new Uint8Array(6 * (to - from))
  let length = 0
  for (let at = from; at < to; at++) {
    const unit = text.charCodeAt(at)
    if (unit >= 0x20 && unit < 0x7f && unit !== 0x22 && unit !== 0x5c) {
      ascii[length++] = unit
      continue
    }
    ascii[length++] = 0x5c
    const short = unit < 0x80 ? shortEscapes.get(unit) : undefined
    if (short !== undefined) {
      ascii[length++] = short
      continue
    }
    const shown = isHalfPair(text, at, unit) ? 0xfffd : unit
    ascii[length++] = 0x75
    for (let shift = 12; shift >= 0; shift -= 4) ascii[length++] = hexDigits.charCodeAt((shown >> shift) & 15)
  }
  return fromUnits(ascii.subarray(0, length))
}

const hexDigits = '0123456789ABCDEF'

/** Half a surrogate pair: strict readers refuse it. */
function isHalfPair(text: string, at: number, unit: number): boolean {
  if (unit < 0xd800 || unit > 0xdfff) return false
  const high = unit <= 0xdbff
  const other = text.charCodeAt(high ? at + 1 : at - 1)
  return high ? !(other >= 0xdc00 && other <= 0xdfff) : !(other >= 0xd800 && other <= 0xdbff)
}

/**
 * C's `%.17g`: 17 significant digits without trailing zeroes, an exponent of at least two digits below 1e-4 and
 * from 1e17 on. Every double survives it.
 */
function doubleText(value: number): string {
  if (!Number.isFinite(value)) throw new TypeError(`${value} has no JSON form`)
  if (value === 0) return Object.is(value, -0) ? '-0' : '0'
  const [mantissa, power] = value.toExponential(16).split('e') as [string, string]
  const exponent = Number(power)
  if (exponent >= -4 && exponent < 17) return trimZeroes(value.toFixed(Math.max(0, 16 - exponent)))
  const sign = exponent < 0 ? '-' : '+'
  return `${trimZeroes(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`
}

function trimZeroes(text: string): string {
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text
}
