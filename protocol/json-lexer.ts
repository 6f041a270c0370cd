// SPDX-License-Identifier: Apache-2.0
// The lexical rules of the control socket as a table: (state, byte) -> next state, or the token that ends here.
// Used by JsonStream only. The rules are the reference daemon's: strings in either quote, control characters and
// the bytes FE and FF never inside a token, after an error everything is skipped up to a byte that can start anew.

/** States inside a token or between tokens. */
export const State = {
  start: 0,
  double: 1,
  doubleEscape: 2,
  single: 3,
  singleEscape: 4,
  minus: 5,
  zero: 6,
  digits: 7,
  point: 8,
  fraction: 9,
  exponent: 10,
  exponentSign: 11,
  exponentDigits: 12,
  keyword: 13,
  recovery: 14,
} as const

/** What a byte may lead to besides a state. */
export const Token = {
  /** First code that is not a state. */
  first: 16,
  openBrace: 16,
  closeBrace: 17,
  openBracket: 18,
  closeBracket: 19,
  colon: 20,
  comma: 21,
  string: 22,
  /** The byte fits nowhere: it belongs to the bad token. */
  error: 23,
  /** From here on the byte is not part of the token and is looked at again. */
  firstLookahead: 24,
  integer: 24,
  float: 25,
  keyword: 26,
  /** End of recovery. */
  restart: 27,
} as const

type Code = (typeof State)[keyof typeof State] | (typeof Token)[keyof typeof Token]

const punctuation = [
  ['{', Token.openBrace],
  ['}', Token.closeBrace],
  ['[', Token.openBracket],
  [']', Token.closeBracket],
  [':', Token.colon],
  [',', Token.comma],
] as const

const [digit0, digit1, digit9] = [0x30, 0x31, 0x39]

/** Index: `state << 8 | byte`. */
export const lexerTable: Uint8Array = makeTable()

/** Sets what the bytes `from` to `to` lead to in a state. */
type Row = (state: number, from: number, to: number, code: Code) => void

function makeTable(): Uint8Array {
  const table = new Uint8Array(16 << 8)
  const row: Row = (state, from, to, code) => {
    table.fill(code, (state << 8) | from, ((state << 8) | to) + 1)
  }
  fillBetween(row)
  fillStrings(row)
  fillNumbers(row)
  row(State.keyword, 0, 0xff, Token.keyword)
  row(State.keyword, 0x61, 0x7a, State.keyword)
  return table
}

function one(row: Row, state: number, character: string, code: Code): void {
  row(state, character.charCodeAt(0), character.charCodeAt(0), code)
}

/** Between tokens, and after an error. */
function fillBetween(row: Row): void {
  row(State.start, 0, 0xff, Token.error)
  for (const blank of ' \t\r\n') one(row, State.start, blank, State.start)
  one(row, State.start, '"', State.double)
  one(row, State.start, "'", State.single)
  one(row, State.start, '-', State.minus)
  one(row, State.start, '0', State.zero)
  row(State.start, digit1, digit9, State.digits)
  row(State.start, 0x61, 0x7a, State.keyword)
  for (const [character, code] of punctuation) one(row, State.start, character, code)

  row(State.recovery, 0, 0xff, State.recovery)
  row(State.recovery, 0, 0x1f, Token.restart)
  one(row, State.recovery, '\t', State.recovery)
  row(State.recovery, 0xfe, 0xff, Token.restart)
  for (const [character] of punctuation) one(row, State.recovery, character, Token.restart)
}

function fillStrings(row: Row): void {
  for (const [inside, afterBackslash, quote] of [
    [State.double, State.doubleEscape, '"'],
    [State.single, State.singleEscape, "'"],
  ] as const) {
    row(inside, 0, 0xff, Token.error)
    row(inside, 0x20, 0xfd, inside)
    one(row, inside, '\\', afterBackslash)
    one(row, inside, quote, Token.string)
    row(afterBackslash, 0, 0xff, Token.error)
    row(afterBackslash, 0x20, 0xfd, inside)
  }
}

function fillNumbers(row: Row): void {
  row(State.minus, 0, 0xff, Token.error)
  row(State.minus, digit1, digit9, State.digits)
  one(row, State.minus, '0', State.zero)
  for (const state of [State.zero, State.digits]) {
    row(state, 0, 0xff, Token.integer)
    row(state, digit0, digit9, state === State.zero ? Token.error : State.digits)
    one(row, state, '.', State.point)
  }
  // As in the reference daemon an exponent follows digits or a fraction, but not a lone zero: 0e0 is `0` and `e`.
  for (const e of 'eE') one(row, State.digits, e, State.exponent)
  row(State.point, 0, 0xff, Token.error)
  row(State.point, digit0, digit9, State.fraction)
  row(State.fraction, 0, 0xff, Token.float)
  row(State.fraction, digit0, digit9, State.fraction)
  for (const e of 'eE') one(row, State.fraction, e, State.exponent)
  row(State.exponent, 0, 0xff, Token.error)
  for (const sign of '+-') one(row, State.exponent, sign, State.exponentSign)
  row(State.exponent, digit0, digit9, State.exponentDigits)
  row(State.exponentSign, 0, 0xff, Token.error)
  row(State.exponentSign, digit0, digit9, State.exponentDigits)
  row(State.exponentDigits, 0, 0xff, Token.float)
  row(State.exponentDigits, digit0, digit9, State.exponentDigits)
}
