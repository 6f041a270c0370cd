// SPDX-License-Identifier: Apache-2.0
// Cuts a stream of bytes into JSON values, as the reference daemon does: no newline is needed, the byte that closes
// the outermost bracket ends a value, errors never end the stream. One per client and direction; used by the control
// session, the command line client and the tests.
// Invariant: how the bytes are split over push() calls changes nothing but the time items come out.

import { fromUnits } from './code-units.js'
import { lexerTable, State, Token } from './json-lexer.js'
import { decodeString, showBytes } from './json-string.js'
import { JsonDouble, type JsonObject, type JsonValue, jsonObject } from './json-value.js'

export type JsonItem =
  | { readonly kind: 'value'; readonly value: JsonValue }
  /** `desc` is the whole text for the error reply. */
  | { readonly kind: 'error'; readonly desc: string }

export interface JsonLimits {
  /** Bytes of one token, and of all tokens of one value. */
  readonly size: number
  readonly tokens: number
  /** Brackets open at once. */
  readonly nesting: number
}

const defaultLimits: JsonLimits = { size: 64 << 20, tokens: 2 << 20, nesting: 1024 }

/** What the grammar waits for. */
const Expect = { value: 0, keyOrEnd: 1, key: 2, colon: 3, dictComma: 4, itemOrEnd: 5, listComma: 6 } as const
type Expectation = (typeof Expect)[keyof typeof Expect]

const notExpected: Readonly<Record<Expectation, string>> = {
  [Expect.value]: 'expecting value',
  [Expect.keyOrEnd]: 'expecting value',
  [Expect.key]: 'expecting value',
  [Expect.colon]: 'missing : in object pair',
  [Expect.dictComma]: 'expected separator in dict',
  [Expect.itemOrEnd]: 'expecting value',
  [Expect.listComma]: 'expected separator in list',
}

const empty = new Uint8Array(0)
/** Longest string kept in the table of strings seen before, bytes. Member and command names repeat. */
const internLimit = 40

export class JsonStream {
  readonly #limits: JsonLimits
  #state: number = State.start
  /** The unfinished token's bytes from earlier pushes. */
  #kept = empty
  #keptLength = 0
  #items: JsonItem[] = []

  // The unfinished value.
  #tokens = 0
  #size = 0
  #braces = 0
  #brackets = 0
  #expect: Expectation = Expect.value
  #open: (JsonObject | JsonValue[])[] = []
  /** By open container: the member whose value comes next; undefined in a list and where a name is awaited. */
  #names: (string | undefined)[] = []
  #result: JsonValue = null
  /** The first grammar error; it is told when the brackets are balanced. */
  #error: string | undefined
  readonly #seen: string[] = new Array(256).fill('')

  constructor(limits: Partial<JsonLimits> = {}) {
    this.#limits = { ...defaultLimits, ...limits }
  }

  /** Takes bytes (not kept) and returns what they complete. */
  push(bytes: Uint8Array): JsonItem[] {
    const end = bytes.length
    const limit = this.#limits.size
    let state = this.#state
    let start = 0
    let at = 0
    while (at < end) {
      const code = lexerTable[(state << 8) | bytes[at]!]!
      if (code < Token.first) {
        at++
        state = code
        if (code === State.start || code === State.recovery) start = at
        else if (this.#keptLength + at - start > limit) {
          this.#fail('JSON token size limit exceeded')
          this.#keptLength = 0
          state = State.start
          start = at
        }
        continue
      }
      if (code === Token.restart) {
        state = State.start
        start = at
        continue
      }
      if (code < Token.firstLookahead) at++
      this.#scanned(code, bytes, start, at)
      state = code === Token.error ? State.recovery : State.start
      start = at
    }
    this.#state = state
    if (start < end) this.#keep(bytes, start, end)
    return this.#take()
  }

  /** The peer will send no more: a bare scalar is complete now, anything else unfinished is an error. */
  end(): JsonItem[] {
    if (this.#state !== State.start && this.#state !== State.recovery) {
      this.#scanned(lexerTable[this.#state << 8]!, empty, 0, 0)
    }
    this.#state = State.start
    if (this.#tokens > 0) this.#fail(`JSON parse error, ${this.#error ?? 'premature EOI'}`)
    return this.#take()
  }

  #take(): JsonItem[] {
    const items = this.#items
    if (items.length > 0) this.#items = []
    return items
  }

  #keep(bytes: Uint8Array, from: number, to: number): void {
    const needed = this.#keptLength + to - from
    if (needed > this.#kept.length) {
      const larger = new Uint8Array(Math.max(needed * 2, 256))
      larger.set(this.#kept.subarray(0, this.#keptLength))
      this.#kept = larger
    }
    this.#kept.set(bytes.subarray(from, to), this.#keptLength)
    this.#keptLength = needed
  }

  /** A whole token: its end is at `bytes[from, to)`, its beginning may have been kept. */
  #scanned(code: number, bytes: Uint8Array, from: number, to: number): void {
    if (this.#keptLength === 0) {
      this.#token(code, bytes, from, to)
      return
    }
    this.#keep(bytes, from, to)
    const [kept, length] = [this.#kept, this.#keptLength]
    this.#keptLength = 0
    if (length > 65536) this.#kept = empty
    this.#token(code, kept, 0, length)
  }

  #token(code: number, bytes: Uint8Array, from: number, to: number): void {
    switch (code) {
      case Token.openBrace:
        this.#braces++
        break
      case Token.closeBrace:
        this.#braces--
        break
      case Token.openBracket:
        this.#brackets++
        break
      case Token.closeBracket:
        this.#brackets--
        break
      case Token.error:
        this.#fail(`JSON parse error, stray '${showBytes(bytes, from, to)}'`)
        return
      default:
    }
    this.#size += to - from
    this.#tokens++
    if (this.#size >= this.#limits.size) this.#fail('JSON token size limit exceeded')
    else if (this.#tokens > this.#limits.tokens) this.#fail('JSON token count limit exceeded')
    else if (this.#braces + this.#brackets > this.#limits.nesting)
      this.#fail('JSON nesting depth limit exceeded')
    else {
      if (this.#error === undefined) this.#accept(code, bytes, from, to)
      const [braces, brackets] = [this.#braces, this.#brackets]
      if ((braces > 0 || brackets > 0) && braces >= 0 && brackets >= 0) return
      if (this.#error !== undefined) this.#fail(`JSON parse error, ${this.#error}`)
      else this.#finish({ kind: 'value', value: this.#result })
    }
  }

  #fail(desc: string): void {
    this.#finish({ kind: 'error', desc })
  }

  #finish(item: JsonItem): void {
    this.#items.push(item)
    this.#tokens = this.#size = this.#braces = this.#brackets = 0
    this.#expect = Expect.value
    this.#open.length = this.#names.length = 0
    this.#result = null
    this.#error = undefined
  }

  /** One token of the grammar. */
  #accept(code: number, bytes: Uint8Array, from: number, to: number): void {
    const expect = this.#expect
    switch (code) {
      case Token.colon:
        if (expect === Expect.colon) this.#expect = Expect.value
        else this.#error = notExpected[expect]
        return
      case Token.comma:
        if (expect === Expect.dictComma) this.#expect = Expect.key
        else if (expect === Expect.listComma) this.#expect = Expect.value
        else this.#error = notExpected[expect]
        return
      case Token.closeBrace:
        if (expect === Expect.keyOrEnd || expect === Expect.dictComma) this.#close()
        else this.#error = notExpected[expect]
        return
      case Token.closeBracket:
        if (expect === Expect.itemOrEnd || expect === Expect.listComma) this.#close()
        else this.#error = notExpected[expect]
        return
      default:
        if (expect === Expect.colon || expect === Expect.dictComma || expect === Expect.listComma) {
          this.#error = notExpected[expect]
        } else if (code === Token.openBrace) {
          this.#push(jsonObject(), Expect.keyOrEnd)
        } else if (code === Token.openBracket) {
          this.#push([], Expect.itemOrEnd)
        } else {
          this.#scalar(code, bytes, from, to)
        }
    }
  }

  #push(container: JsonObject | JsonValue[], expect: Expectation): void {
    this.#open.push(container)
    this.#names.push(undefined)
    this.#expect = expect
  }

  #close(): void {
    const value = this.#open.pop()!
    this.#names.pop()
    this.#value(value)
  }

  /** A complete value for the innermost open container, or the result. */
  #value(value: JsonValue): void {
    const depth = this.#open.length - 1
    if (depth < 0) {
      this.#result = value
      return
    }
    const container = this.#open[depth]!
    if (Array.isArray(container)) {
      container.push(value)
      this.#expect = Expect.listComma
      return
    }
    const name = this.#names[depth]
    if (name === undefined) {
      if (typeof value !== 'string') {
        this.#error = 'key is not a string in object'
        return
      }
      this.#names[depth] = value
      this.#expect = Expect.colon
      return
    }
    if (name in container) {
      this.#error = 'duplicate key'
      return
    }
    container[name] = value
    this.#names[depth] = undefined
    this.#expect = Expect.dictComma
  }

  #scalar(code: number, bytes: Uint8Array, from: number, to: number): void {
    switch (code) {
      case Token.string: {
        const text = this.#string(bytes, from + 1, to - 1)
        if (typeof text === 'string') this.#value(text)
        else this.#error = text.error
        return
      }
      case Token.keyword: {
        const word = showBytes(bytes, from, to)
        if (word === 'true') this.#value(true)
        else if (word === 'false') this.#value(false)
        else if (word === 'null') this.#value(null)
        else this.#error = `invalid keyword '${word}'`
        return
      }
      default: {
        const number = code === Token.integer ? parseInteger(bytes, from, to) : parseDouble(bytes, from, to)
        // 1e400: there is no number to echo, and no digits that would be JSON. Nor is anybody served by numbers that
        // take seconds to read.
        if (number === undefined) this.#error = 'number out of range'
        else this.#value(number)
      }
    }
  }

  #string(bytes: Uint8Array, from: number, to: number): string | { error: string } {
    if (to - from > internLimit) return decodeString(bytes, from, to)
    let hash = to - from
    for (let at = from; at < to; at++) {
      const byte = bytes[at]!
      if (byte > 0x7f || byte === 0x5c) return decodeString(bytes, from, to)
      hash = (hash * 31 + byte) | 0
    }
    const slot = (hash ^ (hash >>> 8)) & 255
    const seen = this.#seen[slot]!
    if (seen.length === to - from) {
      let same = 0
      while (same < seen.length && seen.charCodeAt(same) === bytes[from + same]) same++
      if (same === seen.length) return seen
    }
    const text = fromUnits(bytes.subarray(from, to))
    this.#seen[slot] = text
    return text
  }
}

function parseInteger(bytes: Uint8Array, from: number, to: number): JsonValue | undefined {
  const negative = bytes[from] === 0x2d
  const first = negative ? from + 1 : from
  if (to - first > 20) return parseDouble(bytes, from, to)
  let value = 0
  for (let at = first; at < to; at++) value = value * 10 + (bytes[at]! - 0x30)
  if (value <= Number.MAX_SAFE_INTEGER) return negative && value !== 0 ? -value : value
  const exact = BigInt(showBytes(bytes, from, to))
  const fits = exact >= -(1n << 63n) && exact < 1n << 64n
  return fits ? exact : parseDouble(bytes, from, to)
}

/** Longest number with a fraction, an exponent or many digits that is read, bytes. */
const numberLimit = 4096

function parseDouble(bytes: Uint8Array, from: number, to: number): JsonDouble | undefined {
  if (to - from > numberLimit) return undefined
  const value = Number(fromUnits(bytes.subarray(from, to)))
  return Number.isFinite(value) ? new JsonDouble(value) : undefined
}
