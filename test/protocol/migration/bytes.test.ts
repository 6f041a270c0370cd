// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  concat,
  nameBytes,
  type Parsed,
  parsePrefix,
  type Reader,
  textOf,
  Writer,
} from '../../../protocol/migration/bytes.js'
import { unexpected } from '../../../protocol/migration/error-text.js'
import { be64, bytesOf, counted, outcome } from '../../helpers/migration/prefix.js'
import { holds } from '../../helpers/property.js'

const read = <T>(bytes: Uint8Array, parse: (reader: Reader) => T, origin = 0): Parsed<T> | undefined =>
  parsePrefix(bytes, origin, parse)

const name = (bytes: Uint8Array) => read(bytes, (reader) => reader.name('thing'))

type Field = { kind: 'u8' | 'u16' | 'u32' | 'u64'; value: number } | { kind: 'name'; value: string }

const field: fc.Arbitrary<Field> = fc.oneof(
  fc.record({ kind: fc.constant('u8' as const), value: fc.nat(0xff) }),
  fc.record({ kind: fc.constant('u16' as const), value: fc.nat(0xffff) }),
  fc.record({ kind: fc.constant('u32' as const), value: fc.integer({ min: 0, max: 0xffff_ffff }) }),
  fc.record({ kind: fc.constant('u64' as const), value: fc.maxSafeNat() }),
  fc.record({
    kind: fc.constant('name' as const),
    value: fc
      .string({ minLength: 1, maxLength: 60, unit: 'grapheme' })
      .filter((text) => !text.includes('\0')),
  }),
)

function write(writer: Writer, { kind, value }: Field): void {
  if (kind === 'name') writer.name(value)
  else writer[kind](value)
}

function readAs(reader: Reader, { kind }: Field): string | number {
  return kind === 'name' || kind === 'u64' ? reader[kind]('thing') : reader[kind]()
}

t.test('fields come back as they were written, and every cut asks for more', (t) => {
  const property = fc.property(fc.array(field, { minLength: 1, maxLength: 40 }), fc.nat(), (fields, cut) => {
    const writer = new Writer()
    for (const one of fields) write(writer, one)
    const bytes = writer.finish()
    const parse = (reader: Reader) => fields.map((one) => readAs(reader, one))
    const found = read(bytes, parse)
    const whole = found?.length === bytes.length && fields.every(({ value }, i) => found.value[i] === value)
    return whole && read(bytes.subarray(0, cut % bytes.length), parse) === undefined
  })
  holds(t, property, 500)
  t.end()
})

t.test('numbers of 64 bits are exact or refused, never rounded', (t) => {
  const property = fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
    const parse = (bytes: Uint8Array) => read(bytes, (reader) => reader.u64('thing'))
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) return outcome(parse, be64(value)) === 'refused'
    return BigInt(parse(be64(value))?.value ?? -1) === value
  })
  holds(t, property, 500)
  t.end()
})

const wrongNames = [
  { name: 'empty', bytes: bytesOf(0), says: 'thing at offset 0: found 0 bytes, expected 1 to 255 bytes' },
  { name: 'not UTF-8', bytes: bytesOf(2, 0xc3, 0x28), says: 'found c3 28, expected text in UTF-8' },
  { name: 'with a NUL', bytes: bytesOf(3, 'a\0b'), says: 'found 61 00 62, expected text in UTF-8' },
]
for (const { name: what, bytes, says } of wrongNames) {
  t.test(`a name is refused: ${what}`, (t) => {
    t.throws(() => name(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a name of 255 bytes is read, and what begins with a byte order mark keeps it', (t) => {
  t.equal(name(counted('x'.repeat(255)))?.value.length, 255)
  t.equal(name(counted('\ufeffx'))?.value, '\ufeffx')
  t.end()
})

t.test('names that cannot be written are refused', (t) => {
  for (const text of ['', 'x'.repeat(256), 'ß'.repeat(128), 'a\0b'])
    t.throws(() => nameBytes(text), FormatError, JSON.stringify(text))
  t.end()
})

t.test('errors tell the offset of the field in its stream', (t) => {
  const parse = (reader: Reader) => {
    reader.u32()
    const value = reader.u16()
    throw reader.wrong('count', value, 7)
  }
  t.throws(
    () => read(new Uint8Array(20), parse, 1000),
    new FormatError('count at offset 1004: found 0, expected 7'),
  )
  t.throws(() => {
    throw unexpected('count', 1, 'two')
  }, new FormatError('count: found 1, expected two'))
  t.end()
})

t.test('a constant that differs is seen before it is whole', (t) => {
  const parse = (bytes: Uint8Array) => read(bytes, (reader) => reader.constant(bytesOf('QEVM'), 'magic'), 50)
  t.equal(outcome(parse, bytesOf('QE')), 'more')
  t.equal(outcome(parse, bytesOf('QEVMx')), 'value')
  t.throws(() => parse(bytesOf('QX')), new FormatError('magic at offset 51: found 0x58, expected 0x45'))
  t.end()
})

t.test('looking ahead takes nothing, and waits for bytes like reading does', (t) => {
  const bytes = bytesOf(1, be64(0x1234), 9)
  t.strictSame(
    read(bytes, (reader) => [reader.peek(), reader.peek(9), reader.peek64(1), reader.used]),
    { value: [1, 9, 0x1234, 0], length: 0 },
  )
  t.equal(
    read(bytes, (reader) => reader.peek(10)),
    undefined,
  )
  t.equal(
    read(bytes, (reader) => reader.peek64(3)),
    undefined,
  )
  t.end()
})

t.test('fields are read at their place inside a larger buffer', (t) => {
  const bytes = bytesOf('xxxx', be64(77), 'yyyy').subarray(4, 12)
  t.strictSame(
    read(bytes, (reader) => reader.u64('thing')),
    { value: 77, length: 8 },
  )
  t.equal(
    read(bytes, (reader) => reader.take(9)),
    undefined,
    'not beyond the end of what was given',
  )
  t.end()
})

t.test('what is copied of a Buffer stays as it was when the Buffer is used again', (t) => {
  const buffer = Buffer.from([1, 2, 3])
  const copy = read(buffer, (reader) => reader.take(3).slice())
  buffer.fill(9)
  t.same(copy?.value, bytesOf(1, 2, 3))
  t.end()
})

t.test('other errors than a lack of bytes are not hidden', (t) => {
  const parse = () => {
    throw new RangeError('a mistake')
  }
  t.throws(() => read(new Uint8Array(4), parse), new RangeError('a mistake'))
  t.end()
})

t.test('a writer grows as needed and gives away a copy', (t) => {
  const writer = new Writer().raw(new Uint8Array(1000).fill(7)).u8(8)
  const first = writer.finish()
  writer.u8(9)
  t.equal(first.length, 1001)
  t.same([...first.subarray(999)], [7, 8])
  t.same([...writer.finish().subarray(999)], [7, 8, 9])
  t.end()
})

t.test('small things: text that is none, parts put together', (t) => {
  t.equal(textOf(bytesOf(0xff)), undefined)
  t.same(concat([bytesOf(1, 2), new Uint8Array(), bytesOf(3)]), bytesOf(1, 2, 3))
  t.end()
})
