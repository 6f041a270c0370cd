// SPDX-License-Identifier: Apache-2.0
// Byte inputs for the differential test of the JSON stream: hand-written ones for every rule, mutations of requests,
// and soup of tokens. Used by record-json-answers.ts; bytes are latin1 characters.

/** Small reproducible generator (mulberry32). */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** A request that echoes the text as its id; the command does not exist. */
const echo = (text: string): string => `{"execute":"x","id":${text}}`

const bytes = (...codes: number[]): string => String.fromCharCode(...codes)

/** Texts between blanks. */
const words = (text: string): string[] => text.trim().split(/\s+/)

const scalars = [
  ...words(`
    0 -0 1 -1 00 -00 01 -01 1.0 1.5 -1.5 1e3 1E3 1e+3 1e-3 0e0 0.0 -0.0 1e 1e+ 1. .5 +1 - --1 1- 1.5.5
    1e5e5 1.e5 0x10 1_0 1a 1"a" 9007199254740991 9007199254740992 9007199254740993 -9007199254740993
    9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
    18446744073709551615 18446744073709551616 99999999999999999999 123456789012345678901234567890 0.1
    1e100 1e-100 1e-7 0.0001 0.00001 123456.789 1e16 1e17 12345678901234567.0 5e-324 1e-400
    1.7976931348623157e308 3.14159265358979 0.30000000000000004 100000000000000000000.0 1e22 1e21 true
    false null nul nulll True NULL nan NaN inf Infinity undefined truefalse true1 a-b x_y
  `),
]

const strings = [
  ...words(`
    "" '' "a" 'a' "it's"
  `),
  '\'say "x"\'',
  ...words(String.raw`
    "it\'s" 'a\"b' 'a\'b' "\"" "\\" "\/" "/" "\b\f\n\r\t" "\a" "\x41" "\0" "\v" "\U0041"
  `),
  '"\\ "',
  ...words(String.raw`
    "\\\" "\u0041" "\u00e9" "\u00E9" "\u0000" "a\u0000b" "\u" "\u1" "\u12" "\u123" "\u123g"
  `),
  '"\\u12 4"',
  ...words(String.raw`
    "\u+123" "\u-123" "\u12\n" '\u12' "\u000" "\ug000xyz" "\ud83d" "\ud83dx" "\ud83d\n" "\ud83d\ude00"
    "\ud83d\u0041" "\ud83d\ud83d" "\ud83d\ud83d\ude00" "\ude00" "\ude00\ud83d" "\ud83d\u" "\ud83d\u12"
    "\ud83d\uzzzz" "\udbff\udfff" "\udbff\udffe" "\ud83f\udffd" "\ud83f\udffe" "\uffff" "\ufffe"
    "\ufffd" "\ufdd0" "\ufdef" "\ufdcf" "\ufdf0" "\ufeff" "\u007f" "\u0080" "\u001f"
  `),
]

/** Bytes between quotes. */
const rawStrings = words(`
  c3a9 c3 c328 80 bf c080 c081 c1bf c0af e282ac e282 e2 e080af e09fbf e0a080 ed9fbf eda080
  eda0bdedb880 efb790 efbfbd efbfbe efbfbf f09f9880 f09f98 f08fbfbf f09fbfbe f48fbfbd f48fbfbf
  f4908080 f7bfbfbf f888808080 fc8480808080 fdbfbfbfbfbf fe ff 00 01 09 0a 0d 1b 1f 20 7f
`).map((hex) => `"${Buffer.from(hex, 'hex').toString('latin1')}"`)

const shapes = [
  ...words(`
    [] {} [[]] [{}] {"a":[]} [1,2] [1,] [,1]
  `),
  '[1 2]',
  ...words(`
    [1;2] [ { ] } , : [} {] [{] {[} {[}] {"a"} {"a":} {"a":1,} {,}
  `),
  '{"a" 1}',
  '{"a":1 "b":2}',
  ...words(String.raw`
    {"a":1;"b":2} {a:1} {1:2} {null:1} {[]:1} {{}:1} {[1,]:1} {"a":1,"a":2} {"a":1,"a":} {"a":{"a":1}}
    {"__proto__":1} {"__proto__":{"x":1}} {"constructor":1,"toString":2} {"":1} {"":1,"":2}
    {"a":1,"\u0061":2} {"0":1,"a":2} [[1],[2]] [1,[2,[3,[]]]] {"a":1] ["a"} [1,} {"a":] {"a"] {]} [[} }{
    ][ {}} []] {"a":"b":1} {"a",1} [:] [1:2] {:} {"a"::1} [1,,2] {"a":1,,"b":2} //x
  `),
  '/* x */',
  '#x',
  '{} x {}',
  ...words(`
    [1]x[2] %s % {"a":%d}
  `),
]

const streams = [
  ...[
    '12',
    '12 ',
    '"x"',
    'null',
    'null ',
    'garbage text here',
    'GET / HTTP/1.0\r\nHost: x\r\n',
    ' \t\r\n',
    '\n\n',
    '',
    '\\',
    '`',
    '~',
    '@{}',
    '@ {}',
    '@\n{}',
    '@\t{}',
  ],
  ...[
    `${echo('1')}${echo('2')}`,
    `${echo('1')}\n${echo('2')}`,
    `${echo('1')}garbage${echo('2')}`,
    `${echo('1')},${echo('2')}`,
    `${echo('1')}}${echo('2')}`,
  ],
  ...[
    `[${echo('1')}`,
    `]${echo('1')}`,
    `"${echo('1')}`,
    `'${echo('1')}`,
    `{${echo('1')}`,
    `{"a":${echo('1')}`,
    `{"a":${echo('1')}}`,
  ],
  bytes(0xef, 0xbb, 0xbf) + echo('1'),
  bytes(0xff) + echo('1'),
  bytes(0xfe) + echo('1'),
  bytes(0xff, 0xff, 0xff),
  bytes(0xff, 0xfe, 0x00, 0x01),
  bytes(0x00, 0x00),
  bytes(0x1b) + echo('1'),
  `@${bytes(0xff)}${echo('1')}`,
  `@x${bytes(0x00)}y${echo('1')}`,
  `{"a":"b${bytes(0x00)}c"}`,
  `{"a":"b${bytes(0xc3, 0x28, 0x00)}c"}`,
  `"${bytes(0xe2, 0x82)}\n`,
  `"${bytes(0xe2, 0x82, 0xff)}`,
  `"${bytes(0xf8, 0x88, 0x80)}\n`,
  `"${bytes(0xc0, 0x80)}x\n`,
  `"${bytes(0xed, 0xa0, 0x80)}x\n`,
  `'\\u12\n`,
  `'\\\n`,
  `"a\\${bytes(0xff)}b"`,
  `{"a": 1${bytes(0x0b)}}`,
  `{"a": 1${bytes(0x7f)}}`,
  `${'['.repeat(1024)}${']'.repeat(1024)}`,
  `${'['.repeat(1025)}${']'.repeat(1025)}`,
  `${'{"a":'.repeat(600)}${'['.repeat(424)}1`,
  `${'{"a":'.repeat(600)}${'['.repeat(425)}1`,
]

const seeds = [
  echo('{"a": [1, -2.5e3, null, true], "b": "c\\u00e9\\n"}'),
  echo('[[1,2],{"x":{}},"it\'s",\'q"q\']'),
  '{"execute": "x", "arguments": {"device": "d", "speed": 10}, "id": "i-1"}\r\n',
]
const alphabet = [
  '"',
  "'",
  '\\',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '0',
  '1',
  '-',
  '.',
  'e',
  'u',
  'a',
  ' ',
  '\n',
  '\t',
  '/',
  bytes(0),
  bytes(0xff),
  bytes(0xc3),
  bytes(0x80),
  bytes(0xe2),
  'true',
  '12',
  '\\u',
  '\\ud83d',
]
const vocabulary = [
  ...alphabet,
  '{}',
  '[]',
  '"a"',
  '"a":',
  '1',
  'null',
  'false',
  '-',
  '0.5',
  echo('7'),
  ',',
  ':',
  '{"a":1',
  '[1,',
]

function mutations(count: number, seed: number): string[] {
  const pick = random(seed)
  return Array.from({ length: count }, () => {
    let text = seeds[pick(seeds.length)]!
    for (let times = 1 + pick(3); times > 0; times--) {
      const [at, size] = [pick(text.length + 1), pick(3)]
      text =
        text.slice(0, at) + (pick(4) === 0 ? '' : alphabet[pick(alphabet.length)]!) + text.slice(at + size)
    }
    return text
  })
}

function soup(count: number, seed: number): string[] {
  const pick = random(seed)
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + pick(9) }, () => vocabulary[pick(vocabulary.length)]!).join(
      pick(2) === 0 ? '' : ' ',
    ),
  )
}

export function jsonCases(): string[] {
  const written = [...[...scalars, ...strings, ...rawStrings, ...shapes].map(echo), ...shapes, ...streams]
  return [...new Set([...written, ...mutations(250, 1), ...soup(250, 2)])]
}
