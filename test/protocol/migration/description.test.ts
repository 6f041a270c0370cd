// SPDX-License-Identifier: Apache-2.0
// Ends of streams: whole ones, cut ones, and descriptions that say something else than there is.

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import { findDescription, whyIncomplete } from '../../../protocol/migration/description.js'
import { DescriptionFinder } from '../../../protocol/migration/description-finder.js'
import { parseDescription } from '../../../protocol/migration/device-description.js'
import { walkTail } from '../../../protocol/migration/device-sections.js'
import { streams, unpack } from '../../helpers/migration/fixtures.js'
import { be32, be64, bytesOf, counted } from '../../helpers/migration/prefix.js'
import { mutate } from '../../helpers/mutate.js'
import { holds } from '../../helpers/property.js'

const none = new Map<number, string>()
const zeroes = new Uint8Array(65536)

for (const { file, tail_offset, tail_length, eof_offset, vmdesc_length, device_sections } of streams) {
  t.test(`${file}: the description is found, and names the sections there are`, (t) => {
    const tail = unpack(file).subarray(tail_offset)
    const place = { eofOffset: eof_offset - tail_offset, jsonLength: vmdesc_length }
    for (const found of [findDescription(tail, 'exact'), findDescription(tail, 'padded')]) {
      t.match(found, { ...place, jsonOffset: tail_length - vmdesc_length, description: { pageSize: 4096 } })
      const names = found?.description.sections.map(({ name, instance }) => `${name}/${instance}`)
      t.same(names, device_sections)
    }
    t.equal(whyIncomplete(tail, 'exact'), undefined)
    t.equal(whyIncomplete(tail.subarray(-vmdesc_length - 6), 'exact'), undefined, 'the last bytes are enough')
    t.end()
  })

  t.test(`${file}: the sections are where the description has them`, (t) => {
    const tail = unpack(file).subarray(tail_offset)
    const sections = walkTail(tail, none, 'exact')
    const names = sections.map(({ name, instance }) => `${name}/${instance}`)
    t.same(
      names,
      device_sections.filter((name) => !name.includes('early')),
    )
    t.equal(
      sections.reduce((sum, { length }) => sum + length, 0),
      eof_offset - tail_offset,
    )
    t.end()
  })

  t.test(`${file}: padding is allowed where it is expected`, (t) => {
    const tail = bytesOf(unpack(file).subarray(tail_offset), zeroes)
    t.match(whyIncomplete(tail, 'exact'), /^65536 bytes follow the description/)
    t.equal(whyIncomplete(tail, 'padded'), undefined)
    t.equal(findDescription(tail, 'padded')?.jsonLength, vmdesc_length)
    t.end()
  })

  t.test(`${file}: no cut of it is complete`, (t) => {
    const tail = unpack(file).subarray(tail_offset)
    const json = tail_length - vmdesc_length
    const near = [0, eof_offset - tail_offset, json, tail_length]
    const cuts = fc.oneof(
      fc.nat(tail_length - 1),
      fc
        .constantFrom(...near)
        .chain((at) => fc.integer({ min: Math.max(0, at - 30), max: Math.min(tail_length - 1, at + 30) })),
    )
    const property = fc.property(cuts, fc.constantFrom('exact', 'padded'), (cut, end) => {
      const why = whyIncomplete(tail.subarray(0, cut), end)
      if (cut < json) return /without a description|of 0 bytes|after 0 of/.test(why ?? '')
      return (
        why ===
        `the stream ends after ${cut - json} of ${vmdesc_length} bytes of the description of the device states`
      )
    })
    holds(t, property, 400)
    t.end()
  })
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value))
const end = (value: unknown) => bytesOf(0, 6, be32(json(value).length), json(value))
const field = { name: 'x', type: 'uint64', size: 8 }
const timer = { name: 'timer', instance_id: 0, version: 2, fields: [field] }

const lengths: readonly { name: string; device: object; length: number }[] = [
  { name: 'one field', device: timer, length: 8 },
  { name: 'no fields', device: { name: 'a', instance_id: 1 }, length: 0 },
  { name: 'an array', device: { ...timer, fields: [field, { size: 2, array_len: 50 }] }, length: 108 },
  {
    name: 'a subsection: its head, its name, its fields',
    device: { ...timer, subsections: [{ vmsd_name: 'timer/more', version: 1, fields: [field] }] },
    length: 8 + 6 + 10 + 8,
  },
  {
    name: 'subsections of subsections',
    device: {
      ...timer,
      subsections: [{ vmsd_name: 'a', fields: [], subsections: [{ vmsd_name: 'bc', fields: [field] }] }],
    },
    length: 8 + 6 + 1 + 6 + 2 + 8,
  },
]
for (const { name, device, length } of lengths) {
  t.test(`the length of a section is counted: ${name}`, (t) => {
    t.match(parseDescription(json({ devices: [device] })), { pageSize: undefined, sections: [{ length }] })
    t.end()
  })
}

const deep = (levels: number): object =>
  levels === 0 ? { vmsd_name: 'x' } : { vmsd_name: 'x', subsections: [deep(levels - 1)] }

const noDescriptions: readonly { name: string; value: unknown }[] = [
  { name: 'a list', value: [] },
  { name: 'no devices', value: { page_size: 4096 } },
  { name: 'devices that are no list', value: { devices: {} } },
  { name: 'a device that is text', value: { devices: ['timer'] } },
  { name: 'a device without a name', value: { devices: [{ instance_id: 0 }] } },
  { name: 'a device without an instance', value: { devices: [{ name: 'a' }] } },
  { name: 'a negative size', value: { devices: [{ ...timer, fields: [{ size: -1 }] }] } },
  { name: 'a size with a fraction', value: { devices: [{ ...timer, fields: [{ size: 1.5 }] }] } },
  {
    name: 'a length beyond 2^53',
    value: { devices: [{ ...timer, fields: [{ size: 2 ** 52, array_len: 4 }] }] },
  },
  { name: 'a page size that is text', value: { page_size: '4096', devices: [] } },
  { name: 'subsections without end', value: { devices: [{ ...timer, ...deep(40) }] } },
  { name: 'null', value: null },
]
for (const { name, value } of noDescriptions) {
  t.test(`JSON is no description: ${name}`, (t) => {
    t.equal(parseDescription(json(value)), undefined)
    t.end()
  })
}

t.test('bytes are no description: text that is none, JSON that is none', (t) => {
  t.equal(parseDescription(bytesOf(0x7b, 0xff, 0x7d)), undefined)
  t.equal(parseDescription(bytesOf('{"devices":[}')), undefined)
  t.end()
})

const incomplete: readonly { name: string; tail: Uint8Array; says: RegExp }[] = [
  { name: 'nothing', tail: bytesOf(), says: /^the stream ends without a description/ },
  { name: 'zeroes', tail: zeroes, says: /without a description/ },
  { name: 'EOF alone', tail: bytesOf(4, 0), says: /without a description/ },
  { name: 'half a length', tail: bytesOf(0, 6, 0, 0), says: /without a description/ },
  { name: 'a length alone', tail: bytesOf(0, 6, be32(77)), says: /after 0 of 77 bytes/ },
  { name: 'a byte missing', tail: end({ devices: [] }).subarray(0, -1), says: /after 13 of 14 bytes/ },
  { name: 'a byte too many', tail: bytesOf(end({ devices: [] }), ' '), says: /^1 bytes follow/ },
  { name: 'a line end behind it', tail: bytesOf(end({ devices: [] }), '\n'), says: /^1 bytes follow/ },
  { name: 'other JSON', tail: end({ devices: 7 }), says: /is not one$/ },
  { name: 'no JSON', tail: bytesOf(0, 6, be32(3), '{a}'), says: /is not one$/ },
  { name: 'a description of 16 MiB and one', tail: bytesOf(0, 6, be32(2 ** 24 + 1), '{'), says: /without/ },
]
for (const { name, tail, says } of incomplete) {
  t.test(`a stream is not complete: ${name}`, (t) => {
    t.match(whyIncomplete(tail, 'exact'), says)
    t.equal(findDescription(tail, 'exact'), undefined)
    t.end()
  })
}

t.test('what only looks like a description is passed over, but not for ever', (t) => {
  const fake = bytesOf(0, 6, be32(3), '{a}')
  const real = end({ devices: [] })
  t.equal(findDescription(bytesOf(fake, 0, 6, 0, 6, real), 'padded')?.eofOffset, fake.length + 4)
  t.equal(findDescription(bytesOf(fake, real), 'exact')?.eofOffset, fake.length)
  t.equal(findDescription(bytesOf(...Array<Uint8Array>(64).fill(fake), real), 'padded'), undefined)
  t.end()
})

t.test('a length that has bytes of EOF and a description in it is read right', (t) => {
  const padding = 0x0600 - json({ devices: [], x: '' }).length
  const tail = end({ devices: [], x: 'x'.repeat(padding) })
  t.same(tail.subarray(0, 6), bytesOf(0, 6, 0, 0, 6, 0))
  t.equal(whyIncomplete(tail, 'exact'), undefined)
  t.equal(findDescription(tail, 'padded')?.jsonLength, 0x600)
  t.end()
})

const named = (type: number, id: number, name: string, ...body: Uint8Array[]) =>
  bytesOf(type, be32(id), counted(name), be32(0), be32(2), ...body, 0x7e, be32(id))
const timerSection = named(4, 9, 'timer', be64(1))
const bitmapEnd = bytesOf(3, be32(4), 0x20, 1, 0x7e, be32(4))
const early = { name: 'x/virtio-mem-device-early', instance_id: 0, fields: [field] }

t.test('sections that began before the tail, and early ones in the description, are taken along', (t) => {
  const tail = bytesOf(bitmapEnd, timerSection, end({ devices: [early, timer] }))
  t.same(walkTail(tail, new Map([[4, 'dirty-bitmap']]), 'exact'), [
    { name: 'dirty-bitmap', instance: 0, offset: 0, length: bitmapEnd.length },
    { name: 'timer', instance: 0, offset: bitmapEnd.length, length: timerSection.length },
  ])
  t.same(walkTail(end({ devices: [early] }), none, 'exact'), [])
  t.end()
})

const otherTails: readonly { name: string; tail: Uint8Array; says: RegExp }[] = [
  { name: 'no description', tail: timerSection, says: /without a description/ },
  {
    name: 'a section too many',
    tail: bytesOf(timerSection, timerSection, end({ devices: [timer] })),
    says: /expected "EOF"/,
  },
  { name: 'a section too few', tail: end({ devices: [timer] }), says: /found EOF, expected section "timer"/ },
  {
    name: 'another section',
    tail: bytesOf(named(4, 9, 'cpu'), end({ devices: [timer] })),
    says: /"cpu" instance 0, expected "timer"/,
  },
  {
    name: 'a START',
    tail: bytesOf(named(1, 9, 'timer', be64(1)), end({ devices: [timer] })),
    says: /section 9 "timer"/,
  },
  {
    name: 'another length',
    tail: bytesOf(timerSection, end({ devices: [{ ...timer, fields: [field, field] }] })),
    says: /EOF within a section/,
  },
  {
    name: 'no footer where it should be',
    tail: bytesOf(
      timerSection,
      zeroes.subarray(0, 9),
      end({ devices: [{ ...timer, fields: [field, { size: 5 }] }] }),
    ),
    says: /footer of section 9/,
  },
  {
    name: 'END of nothing',
    tail: bytesOf(bitmapEnd, end({ devices: [] })),
    says: /END of section 4: found no such section/,
  },
]
for (const { name, tail, says } of otherTails) {
  t.test(`a tail is not what its description says: ${name}`, (t) => {
    t.throws(() => walkTail(tail, none, 'exact'), { name: 'FormatError', message: says })
    t.end()
  })
}

t.test('damaged tails are walked or refused, nothing else', (t) => {
  const [first] = streams
  if (first === undefined) throw new Error('no stream')
  const tail = unpack(first.file).subarray(first.tail_offset)
  const property = fc.property(
    fc.infiniteStream(fc.nat()),
    fc.constantFrom(0, first.eof_offset - first.tail_offset),
    (numbers, from) => {
      const bytes = Buffer.from(tail)
      const damaged = bytes.subarray(from, from + 20_000)
      mutate(damaged, damaged.length - 8, (below) => (numbers.next().value ?? 0) % below)
      try {
        walkTail(bytes, none, 'exact')
        return true
      } catch (error) {
        return error instanceof FormatError
      }
    },
  )
  holds(t, property, 300)
  t.end()
})

t.test('an end is found at the same place however its bytes come', (t) => {
  const real = end({ devices: [timer] })
  const fake = bytesOf(0, 6, be32(10), '{"none": 1}')
  const begun = bytesOf(0, 6, be32(5000), '{')
  const bytes = bytesOf('states', fake, 0, 6, real, begun, zeroes)
  const expected = 6 + fake.length + 2 + real.length
  const sizes = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 })
  const property = fc.property(sizes, (pieces) => {
    const finder = new DescriptionFinder()
    for (let at = 0, index = 0; at < bytes.length; index++) {
      const length = at < 200 ? (pieces[index % pieces.length] ?? 1) : bytes.length
      finder.add(bytes.subarray(at, at + length))
      at += length
    }
    return finder.end === expected
  })
  holds(t, property, 400)
  t.end()
})

t.test('what only began to be an end does not hide one', (t) => {
  const real = end({ devices: [timer] })
  const begun = bytesOf(0, 6, be32(5000), '{')
  const finder = new DescriptionFinder()
  finder.add(bytesOf(begun, real))
  t.equal(finder.end, undefined)
  finder.finish()
  t.equal(finder.end, begun.length + real.length)
  t.end()
})

t.test('ends that are none are tried so often and no more', (t) => {
  const finder = new DescriptionFinder()
  const fake = bytesOf(0, 6, be32(10), '{"none":1}')
  for (let count = 0; count < 64; count++) finder.add(fake)
  finder.add(end({ devices: [timer] }))
  finder.finish()
  t.equal(finder.end, undefined)
  t.end()
})
