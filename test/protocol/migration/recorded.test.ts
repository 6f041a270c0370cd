// SPDX-License-Identifier: Apache-2.0
// The recorded streams and mapped-ram files, read with the codecs from end to end, against the naive reader and the
// manifest; and cut and damaged at every kind of place.

import fc from 'fast-check'
import t from 'tap'
import { formatBlock, formatMemSize, formatRamStart } from '../../../protocol/migration/block-list.js'
import { concat } from '../../../protocol/migration/bytes.js'
import { formatCommand } from '../../../protocol/migration/command.js'
import { walkTail } from '../../../protocol/migration/device-sections.js'
import { setPage } from '../../../protocol/migration/mapped-bitmap.js'
import { mappedPieces, mappedTailStart, planMappedRam } from '../../../protocol/migration/mapped-layout.js'
import { formatEmptyRam, formatRamEos, formatStreamHead } from '../../../protocol/migration/ram-frame.js'
import { CodecWalk } from '../../helpers/migration/codec-walk.js'
import { type ExpectedStream, streams, unpack } from '../../helpers/migration/fixtures.js'
import { outcome } from '../../helpers/migration/prefix.js'
import { Replay } from '../../helpers/migration/replay.js'
import { mutate } from '../../helpers/mutate.js'
import { holds } from '../../helpers/property.js'

const PAGE = 4096
/** The head of START of RAM. */
const START_LENGTH = 1 + 4 + 1 + 3 + 4 + 4
const base = ({ start_offset = 0 }: ExpectedStream) => start_offset
const plain = streams.filter(({ kind }) => kind !== 'mapped-ram')

function same(walk: CodecWalk, replay: Replay): boolean {
  return replay.blocks.every(({ name, memory }) => memory.equals(walk.memory.get(name) ?? new Uint8Array()))
}

for (const expected of streams) {
  t.test(`${expected.file}: the codecs find what the naive reader finds`, (t) => {
    const bytes = unpack(expected.file)
    const replay = new Replay(bytes, base(expected))
    const walk = new CodecWalk(bytes, base(expected))
    t.equal(walk.total, expected.mem_size_total)
    t.same(
      [...walk.memory.keys()],
      replay.blocks.map(({ name }) => name),
    )
    t.ok(same(walk, replay), 'the same memory')
    const { page, zero, xbzrle, sync, eos } = walk.records
    t.same({ page, zero, xbzrle }, replay.records)
    t.equal(eos + (walk.layout === undefined ? 1 : 0), expected.ram_eos_count, 'one is read with the list')
    t.equal(sync + (walk.syncRecord ? 1 : 0), expected.multifd_flush_count)
    t.equal(walk.syncRecord, replay.syncStyle === 'MULTIFD_FLUSH')
    t.equal(walk.at, replay.boundary)
    t.match(walk.steps.at(-1)?.step, { kind: 'boundary', ramEnded: expected.ram_end_section_seen })
    t.end()
  })

  t.test(`${expected.file}: commands and early sections are those of the manifest`, (t) => {
    const walk = new CodecWalk(unpack(expected.file), base(expected))
    const commands = walk.steps.flatMap(({ step }) => (step.kind === 'command' ? [step] : []))
    t.same(
      commands.map(({ command: { name, payload } }) => ({
        name,
        payload: Buffer.from(payload).toString('hex'),
      })),
      expected.commands,
    )
    for (const { command, bytes } of commands) t.same(formatCommand(command), new Uint8Array(bytes))
    const sections = walk.steps.flatMap(({ at, step }) => (step.kind === 'section' ? [{ at, ...step }] : []))
    const bitmaps = sections.filter(({ name }) => name === 'dirty-bitmap')
    const [other] = expected.other_sections_before_ram_end ?? []
    t.equal(bitmaps.length, other === undefined ? 0 : other.START + other.PART + other.END)
    t.equal(bitmaps.filter(({ empty }) => empty).length, other?.PART ?? 0)
    const early = sections.filter(({ name }) => name !== 'dirty-bitmap')
    t.same(
      early.map(({ at, name, bytes }) => ({
        offset: at,
        idstr: name,
        length_with_header_and_footer: bytes.length,
      })),
      expected.early_section === undefined ? [] : [expected.early_section],
    )
    t.end()
  })

  t.test(`${expected.file}: its device sections are walked from the boundary on`, (t) => {
    const walk = new CodecWalk(unpack(expected.file), base(expected))
    const sections = walkTail(walk.tail, walk.outline.open, 'exact').map(
      ({ name, instance }) => `${name}/${instance}`,
    )
    const devices = expected.device_sections.filter((name) => !name.includes('early'))
    t.same(
      sections.filter((name) => name !== 'dirty-bitmap/0'),
      devices,
    )
    t.equal(sections.length - devices.length, expected.other_sections_before_ram_end === undefined ? 0 : 1)
    t.end()
  })

  t.test(`${expected.file}: everything in front of the boundary waits for its last byte`, (t) => {
    const bytes = unpack(expected.file)
    const { taken } = new CodecWalk(bytes, base(expected))
    const wrong: string[] = []
    let cuts = 0
    const before = (index: number, parse: (bytes: Uint8Array, origin: number) => unknown) => {
      const { what, at, length, ahead } = taken[index] ?? { what: '', at: 0, length: 0, ahead: 0 }
      for (const cut of cutsOf(length + ahead)) {
        cuts += 1
        if (parse(bytes.subarray(at, at + cut), at) !== undefined)
          wrong.push(`${what} at ${at}, ${cut} of ${length} bytes`)
      }
    }
    new CodecWalk(bytes, base(expected), { before, structureOnly: true })
    t.same(wrong, [])
    t.comment(`${cuts} cuts`)
    t.end()
  })
}

/** Every byte of what is short, the edges of what is long and some places between. */
function cutsOf(length: number): number[] {
  if (length <= 300) return [...Array(length).keys()]
  const edges = [...Array(40).keys()].flatMap((index) => [index, length - 1 - index])
  return [...edges, ...[...Array(20).keys()].map((index) => Math.floor(((index + 1) * length) / 21))]
}

for (const expected of plain) {
  t.test(`${expected.file}: the head is written as it was`, (t) => {
    const bytes = unpack(expected.file)
    const walk = new CodecWalk(bytes, base(expected))
    const commands = walk.steps.flatMap(({ at, step }) =>
      step.kind === 'command' && at < walk.bodyOffset ? [step.bytes] : [],
    )
    const head = formatStreamHead(walk.configuration, expected.ram_section_id)
    const from = walk.bodyOffset - START_LENGTH
    const before = concat([
      bytes.subarray(base(expected), base(expected) + head.length - START_LENGTH),
      ...commands,
    ])
    t.ok(bytes.subarray(base(expected), from).equals(before))
    t.same(head.subarray(-START_LENGTH), new Uint8Array(bytes.subarray(from, walk.bodyOffset)))
    const replay = new Replay(bytes, base(expected))
    const list = formatRamStart(
      replay.blocks.map(({ name, usedLength, address }) => ({
        name,
        usedLength,
        ...(address !== undefined && { address }),
      })),
      walk.syncRecord,
    )
    t.ok(bytes.subarray(walk.bodyOffset, walk.bodyOffset + list.length).equals(list))
    t.end()
  })
}

/** What a converter does, in memory: every page at its place, everything else around it. */
function toMappedFile(walk: CodecWalk, ramId: number, at: number): Buffer {
  const blocks = [...walk.memory].map(([name, memory]) => ({ name, usedLength: memory.length }))
  const source = { configuration: walk.configuration, ramId, blocks }
  const layout = planMappedRam(source, at)
  const early = walk.steps.flatMap(({ step }) => {
    if (step.kind === 'section') return step.empty ? [] : [step.bytes]
    return step.kind === 'command' && step.fate.kind === 'keep' ? [step.bytes] : []
  })
  const end = concat([mappedTailStart(ramId, early), walk.tail])
  const file = Buffer.alloc(layout.tailOffset + end.length)
  for (const { offset, bytes } of mappedPieces(source, layout)) file.set(bytes, offset)
  file.set(end, layout.tailOffset)
  for (const { name, mapped, bitmapLength } of layout.blocks) {
    const memory = Buffer.from(walk.memory.get(name) ?? [])
    const bitmap = new Uint8Array(bitmapLength)
    for (let offset = 0; offset < memory.length; offset += PAGE) {
      const page = memory.subarray(offset, offset + PAGE)
      if (page.every((byte) => byte === 0)) continue
      setPage(bitmap, offset / PAGE)
      file.set(page, mapped.pagesOffset + offset)
    }
    file.set(bitmap, mapped.bitmapOffset)
  }
  return file
}

for (const expected of plain.filter(({ kind }) => kind === 'stream')) {
  t.test(`${expected.file}: laid out as a mapped-ram file it has the same memory and tail`, (t) => {
    const bytes = unpack(expected.file)
    const before = new Replay(bytes, base(expected))
    const file = toMappedFile(new CodecWalk(bytes, base(expected)), expected.ram_section_id, 777)
    const after = new Replay(file, 777)
    t.ok(after.lists('mapped-ram') && !after.lists('x-ignore-shared'))
    t.ok(before.blocks.every(({ name, memory }) => memory.equals(after.block(name).memory)))
    t.ok(after.tail.equals(before.tail))
    const kept = expected.commands.filter(({ name, payload }) => !/RETURN|PING/.test(name) && payload === '')
    t.same(after.commands, kept)
    t.same(
      after.early.map(({ idstr }) => idstr),
      before.early.map(({ idstr }) => idstr),
    )
    t.same(
      after.others.map(({ idstr, START, PART }) => ({ idstr, START, PART })),
      before.others.map(({ idstr }) => ({ idstr, START: 1, PART: 0 })),
    )
    t.ok(same(new CodecWalk(file, 777), after), 'and the codecs read it too')
    t.end()
  })
}

t.test('entries of a list and the pieces around pages are those of the recorded files', (t) => {
  const expected = streams.find(({ file }) => file.includes('stopped.mapped'))
  if (expected === undefined) throw new Error('no mapped-ram file')
  const bytes = unpack(expected.file)
  const { layout, bodyOffset } = new CodecWalk(bytes, 0)
  t.same(formatMemSize(expected.mem_size_total), new Uint8Array(bytes.subarray(bodyOffset, bodyOffset + 8)))
  for (const block of layout?.blocks ?? []) {
    const { entryOffset, entryLength } = block
    t.same(formatBlock(block), new Uint8Array(bytes.subarray(entryOffset, entryOffset + entryLength)))
  }
  const id = expected.ram_section_id
  const tail = concat([formatRamEos(id), formatEmptyRam('part', id)])
  t.same(new Uint8Array(bytes.subarray(layout?.tailOffset).subarray(0, tail.length)), tail)
  t.end()
})

/** A whole read of a file, its tail too. */
function readAll(bytes: Uint8Array, from: number): { value: unknown; length: number } | undefined {
  try {
    const walk = new CodecWalk(bytes, from, { structureOnly: true })
    return { value: walkTail(walk.tail, walk.outline.open, 'exact'), length: bytes.length }
  } catch (error) {
    if (error instanceof Error && /more bytes are needed/.test(error.message)) return undefined
    throw error
  }
}

const small = streams.filter(({ kind, size }) => kind !== 'mapped-ram' && size < 400_000)

for (const expected of small) {
  t.test(`${expected.file}: no cut of it is read as if it were whole`, (t) => {
    const bytes = unpack(expected.file)
    const from = base(expected)
    t.equal(
      outcome((some) => readAll(some, from), bytes),
      'value',
    )
    const cuts = fc.integer({ min: from, max: bytes.length - 1 })
    const property = fc.property(
      cuts,
      (cut) => outcome((some) => readAll(some, from), bytes.subarray(0, cut)) !== 'value',
    )
    holds(t, property, 700)
    t.end()
  })

  t.test(`${expected.file}: whatever is damaged, it is read, refused or found too short`, (t) => {
    const bytes = unpack(expected.file)
    const from = base(expected)
    const { taken } = new CodecWalk(bytes, from)
    const places = fc.oneof(
      fc.constantFrom(...taken).map(({ at }) => at),
      fc.integer({ min: from, max: bytes.length - 64 }),
    )
    const property = fc.property(places, fc.infiniteStream(fc.nat()), (at, numbers) => {
      const damaged = Buffer.from(bytes)
      const here = damaged.subarray(Math.min(at, bytes.length - 64))
      mutate(here, Math.min(64, here.length), (below) => (numbers.next().value ?? 0) % below)
      return outcome((some) => readAll(some, from), damaged) !== undefined
    })
    holds(t, property, 700)
    t.end()
  })
}
