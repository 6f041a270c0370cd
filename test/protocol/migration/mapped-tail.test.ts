// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { formatCommand } from '../../../protocol/migration/command.js'
import { whyIncomplete } from '../../../protocol/migration/description.js'
import { mappedTailStart } from '../../../protocol/migration/mapped-layout.js'
import { parseMappedTail } from '../../../protocol/migration/mapped-tail.js'
import { Outline } from '../../../protocol/migration/outline.js'
import { formatEmptyRam, formatRamEos } from '../../../protocol/migration/ram-frame.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { streams, unpack } from '../../helpers/migration/fixtures.js'
import { readAtOf, readMappedFile } from '../../helpers/migration/mapped-file.js'
import { be16, be32, be64, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const PAGE = 4096

/** One that stands behind the head of START of RAM. */
function atList(id: number): Outline {
  const outline = new Outline()
  outline.next(bytesOf(1, be32(id), counted('ram'), be32(0), be32(4)))
  return outline
}

for (const { file, kind, start_offset = 0, tail_offset, ram_section_id } of streams) {
  if (kind !== 'mapped-ram') continue
  t.test(`${file}: what comes early is read from any prefix, up to the device states`, (t) => {
    const bytes = unpack(file)
    const found = readMappedFile(readAtOf(bytes), bytes.length, start_offset)
    if (found === undefined) throw new Error('the file ends too early')
    const { layout, outline } = found
    const parse = (some: Uint8Array) => parseMappedTail(some, outline, PAGE, layout.tailOffset)
    const tail = parsesWhenWhole(t, bytes.subarray(layout.tailOffset, tail_offset), parse)
    const switchover = formatCommand({ name: 'SWITCHOVER_START', payload: new Uint8Array() })
    t.same(
      tail.early.map((one) => new Uint8Array(one)),
      [switchover],
    )
    t.same([...tail.open], [])
    t.equal(whyIncomplete(bytes.subarray(tail_offset), 'exact'), undefined)
    const written = mappedTailStart(ram_section_id, tail.early)
    t.same(parse(written), { value: tail, length: written.length }, 'what is written of it is the same')
    t.end()
  })
}

const eos = formatRamEos(3)
const end = formatEmptyRam('end', 3)
const bitmapStart = bytesOf(1, be32(4), counted('dirty-bitmap'), be32(0), be32(1), 1, 0x7e, be32(4))
const bitmapPart = bytesOf(2, be32(4), 1, 0x7e, be32(4))
const command = (number: number) => bytesOf(8, be16(number), be16(0))

t.test('sections and commands are kept in their order, empty parts and dropped commands are not', (t) => {
  const tail = bytesOf(
    eos,
    bitmapStart,
    command(3),
    bitmapPart,
    command(1),
    formatEmptyRam('part', 3),
    command(11),
    end,
  )
  const found = parsesWhenWhole(t, tail, (some) => parseMappedTail(some, atList(3), PAGE))
  t.same(found.early, [bitmapStart, command(3), command(11)])
  t.same([...found.open], [[4, 'dirty-bitmap']])
  t.end()
})

const wrong = [
  {
    name: 'no END, a device instead',
    tail: bytesOf(eos, 4, be32(9), counted('timer'), be64(1)),
    says: refusals.unfinishedMapped,
  },
  { name: 'no END, EOF instead', tail: bytesOf(eos, 0), says: refusals.unfinishedMapped },
  {
    name: 'a page',
    tail: bytesOf(eos, 2, be32(3), be64(0x1008)),
    says: 'found 0x1008, expected 0x10, its end',
  },
  { name: 'a page in START', tail: be64(8), says: 'found 0x8' },
  { name: 'postcopy', tail: bytesOf(eos, command(5)), says: refusals.postcopy },
  { name: 'disks', tail: bytesOf(eos, 1, be32(8), counted('block'), be64(1)), says: refusals.blockMigration },
  { name: 'another footer', tail: bytesOf(be64(0x10), 0x7e, be32(2)), says: 'found 2, expected 3' },
]
for (const { name, tail, says } of wrong) {
  t.test(`a mapped-ram file is refused: ${name}`, (t) => {
    t.throws(() => parseMappedTail(tail, atList(3), PAGE), {
      name: 'FormatError',
      message: RegExp(says.slice(0, 60)),
    })
    t.end()
  })
}

t.test('a sync point of multifd means nothing in a file', (t) => {
  t.equal(
    parseMappedTail(bytesOf(be64(0x200), eos, end), atList(3), PAGE)?.length,
    8 + eos.length + end.length,
  )
  t.end()
})
