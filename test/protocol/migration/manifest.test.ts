// SPDX-License-Identifier: Apache-2.0
// The naive reader, which other tests take for the truth, against all that the manifest says of the recorded files.

import { createHash } from 'node:crypto'
import t from 'tap'
import {
  channelsOf,
  type ExpectedBlock,
  type ExpectedStream,
  fixtures,
  isStream,
  nameOf,
  streams,
  unpack,
} from '../../helpers/migration/fixtures.js'
import { type Block, Replay } from '../../helpers/migration/replay.js'
import { replayIgnoreShared, replayMultifd, replaySaveImage } from '../../helpers/migration/replay-sets.js'

const PAGE = 4096
const zeroPage = Buffer.alloc(PAGE)

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function nonzeroPages(memory: Buffer): number {
  let count = 0
  for (let at = 0; at < memory.length; at += PAGE)
    if (!memory.subarray(at, at + PAGE).equals(zeroPage)) count += 1
  return count
}

/** In the manifest's words; what the file has none of is left out there too. */
function described({ name, usedLength, memory, address, mapped }: Block): ExpectedBlock {
  const nonzero = nonzeroPages(memory)
  return {
    name,
    used_length: usedLength,
    nonzero_pages: nonzero,
    zero_pages: usedLength / PAGE - nonzero,
    sha256: sha256(memory),
    ...(mapped && {
      bits_set: mapped.bits,
      bitmap_offset: mapped.bitmapOffset,
      pages_offset: mapped.pagesOffset,
      header_offset: mapped.headerOffset,
    }),
    ...(address !== undefined && { gpa: address }),
  }
}

/** The members of the manifest that every stream has, and those that only some have where they are not empty. */
function found(replay: Replay, bytes: Buffer, expected: ExpectedStream): Record<string, unknown> {
  const early = replay.early.map(({ offset, idstr, length }) => ({
    offset,
    idstr,
    length_with_header_and_footer: length,
  }))
  return {
    configuration: replay.configuration,
    ram_section_id: replay.ramSectionId,
    mem_size_total: replay.total,
    records: expected.kind === 'mapped-ram' ? {} : replay.records,
    ram_eos_count: replay.eosCount,
    multifd_flush_count: replay.flushCount,
    ram_end_section_seen: replay.ramEnd !== undefined,
    tail_offset: replay.tailOffset,
    tail_length: bytes.length - replay.tailOffset,
    commands: replay.commands,
    eof_offset: replay.eofOffset,
    vmdesc_length: replay.descriptionLength,
    device_sections: replay.deviceSections,
    ...(early.length > 0 && { early_section: early[0] }),
    ...(replay.others.length > 0 && {
      ram_end_footer_end: replay.ramEnd,
      other_sections_before_ram_end: replay.others,
    }),
    ...(expected.kind !== 'multifd-main' && { blocks: replay.blocks.map(described) }),
  }
}

/** Members that say how a file came about, and those that the tests below look at. */
const apart = new Set([
  ...['file', 'kind', 'size', 'sha256', 'qemu', 'machine', 'how', 'start_offset'],
  ...['last_tick_before_save', 'first_tick_after_restore'],
  ...['libvirt_header', 'ram_image', 'ram_image_block'],
  ...['sync_points_on_main', 'sync_style', 'after_replay_of_all_files'],
])

function said(expected: ExpectedStream): Record<string, unknown> {
  return Object.fromEntries(Object.entries(expected).filter(([member]) => !apart.has(member)))
}

for (const fixture of fixtures) {
  t.test(`${fixture.file} unpacks to what was recorded`, async (t) => {
    const bytes = unpack(fixture.file)
    t.equal(bytes.length, fixture.size)
    t.equal(sha256(bytes), fixture.sha256)
    if (!isStream(fixture) && fixture.nonzero_pages !== undefined)
      t.equal(nonzeroPages(bytes), fixture.nonzero_pages)
  })
}

for (const expected of streams.filter(({ kind }) => kind !== 'multifd-main')) {
  t.test(`${expected.file}: everything the manifest says is found`, async (t) => {
    const bytes = unpack(expected.file)
    const replay = new Replay(bytes, expected.start_offset)
    t.strictSame(found(replay, bytes, expected), said(expected))
    t.equal(replay.configuration.machine, expected.machine)
    t.equal(replay.boundary, expected.ram_end_footer_end ?? expected.tail_offset)
    t.equal(replay.tail.length, bytes.length - replay.boundary)
  })
}

for (const expected of streams.filter(({ kind }) => kind === 'multifd-main')) {
  t.test(`${expected.file} with its channels: everything the manifest says is found`, async (t) => {
    const bytes = unpack(expected.file)
    const { replay, totals } = replayMultifd(bytes, channelsOf(expected).map(unpack))
    t.strictSame(found(replay, bytes, expected), said(expected))
    t.equal(replay.syncPoints, expected.sync_points_on_main)
    t.equal(replay.syncStyle, expected.sync_style)
    t.strictSame(
      { totals: { ...totals, main_zero: replay.records.zero }, blocks: replay.blocks.map(described) },
      expected.after_replay_of_all_files,
    )
  })

  t.test(`${expected.file}: channels may be given in any order`, async (t) => {
    const { replay } = replayMultifd(unpack(expected.file), channelsOf(expected).map(unpack).reverse())
    t.strictSame(replay.blocks.map(described), expected.after_replay_of_all_files?.blocks)
  })
}

for (const expected of streams.filter(({ libvirt_header }) => libvirt_header !== undefined)) {
  t.test(`${expected.file}: the header in front is what the manifest says`, async (t) => {
    const { header, replay } = replaySaveImage(unpack(expected.file))
    const { xml, ...fields } = header
    t.strictSame({ ...fields, xml_length: xml.length }, expected.libvirt_header)
    t.match(xml, /^<domain type=/)
    t.equal(92 + header.data_len, expected.start_offset)
    t.strictSame(replay.blocks.map(described), expected.blocks)
  })
}

for (const { file, ram_image, ram_image_block } of streams) {
  if (ram_image === undefined || ram_image_block === undefined) continue
  t.test(`${file} and ${ram_image} are one image together`, async (t) => {
    const ram = unpack(ram_image)
    const replay = replayIgnoreShared(unpack(file), ram_image_block, ram)
    t.equal(sha256(replay.block(ram_image_block).memory), sha256(ram))
  })
}

t.test('every stream is replayed above, and every file belongs to one', async (t) => {
  const parts = streams.flatMap((expected) => [
    ...(expected.kind === 'multifd-main' ? channelsOf(expected) : []),
    ...(expected.ram_image === undefined ? [] : [nameOf(expected.ram_image)]),
  ])
  const all = [...streams.map(({ file }) => nameOf(file)), ...parts]
  t.same(all.sort(), fixtures.map(({ file }) => nameOf(file)).sort())
})
