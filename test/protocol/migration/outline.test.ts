// SPDX-License-Identifier: Apache-2.0
// The order of sections, in small streams put together here. The recorded ones are walked in recorded.test.ts.

import t from 'tap'
import { type BlockFields, formatRamStart, parseRamStart } from '../../../protocol/migration/block-list.js'
import { parseConfiguration } from '../../../protocol/migration/configuration.js'
import { Outline, type Step } from '../../../protocol/migration/outline.js'
import { RamRecords } from '../../../protocol/migration/page-record.js'
import { PREAMBLE_LENGTH } from '../../../protocol/migration/preamble.js'
import { formatEmptyRam, formatRamEos, formatStreamHead } from '../../../protocol/migration/ram-frame.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { be16, be32, be64, bytesOf, counted } from '../../helpers/migration/prefix.js'

const PAGE = 4096
const blocks = [{ name: 'pc.ram', usedLength: 4 * PAGE }]
const fields: BlockFields = { pageSize: PAGE, addresses: false, mapped: false, hostPageSizes: false }
const configuration = { machine: 'pc', pageBits: undefined, capabilities: undefined, uuid: undefined }

const named = (type: number, id: number, name: string, version = 1) =>
  bytesOf(type, be32(id), counted(name), be32(0), be32(version))
const footer = (id: number) => bytesOf(0x7e, be32(id))
const command = (number: number, payload: Uint8Array = new Uint8Array()) =>
  bytesOf(8, be16(number), be16(payload.length), payload)

const ramStart = bytesOf(named(1, 3, 'ram', 4), formatRamStart(blocks, false), footer(3))
const part = formatEmptyRam('part', 3)
const end = formatEmptyRam('end', 3)
const bitmapStart = bytesOf(
  named(1, 4, 'dirty-bitmap'),
  [0x1c],
  counted('n0'),
  counted('b'),
  be32(65536),
  1,
  1,
  footer(4),
)
const bitmapPart = bytesOf(2, be32(4), 1, footer(4))
const bitmapEnd = bytesOf(3, be32(4), 0x20, 1, footer(4))
const virtioMem = bytesOf(
  named(4, 5, 'x/virtio-mem-device-early'),
  be64(0),
  be64(64),
  be64(64),
  be32(0),
  be64(0),
  be64(0),
  footer(5),
)
const device = named(4, 9, 'timer')

/** Walks to the boundary, or to a refusal; returns short names of the steps, and where it stopped. */
function walk(bytes: Uint8Array): { steps: string[]; at: number } {
  const outline = new Outline()
  const records = new RamRecords(blocks, PAGE)
  const steps: string[] = []
  let at = 0
  for (;;) {
    const step = outline.next(bytes.subarray(at), at)
    if (step === undefined) return { steps: [...steps, 'more'], at }
    at += step.length
    steps.push(shortName(step.value))
    if (step.value.kind === 'boundary' || step.value.kind === 'refuse') return { steps, at }
    if (step.value.kind !== 'ram') continue
    if (step.value.part === 'start') at += parseRamStart(bytes.subarray(at), fields, at)?.length ?? 0
    else at += records.next(bytes.subarray(at), at)?.length ?? 0
    at += outline.ramFooter(bytes.subarray(at), at)?.length ?? 0
  }
}

function shortName(step: Step): string {
  switch (step.kind) {
    case 'ram':
      return `ram ${step.part} ${step.id}`
    case 'command':
      return `${step.fate.kind} ${step.command.name}`
    case 'section':
      return `${step.empty ? 'empty ' : ''}${step.name} ${step.bytes.length}`
    case 'refuse':
      return `refuse ${step.reason}`
    case 'boundary':
      return `boundary ${step.ramEnded ? 'behind END' : 'without END'}`
    default:
      return step satisfies never
  }
}

const streams: readonly { name: string; bytes: Uint8Array; steps: string[]; rest: number }[] = [
  {
    name: 'the shortest',
    bytes: bytesOf(ramStart, end, device),
    steps: ['ram start 3', 'ram end 3', 'boundary behind END'],
    rest: device.length,
  },
  {
    name: 'with an answer wanted and a switch-over announced',
    bytes: bytesOf(command(1), command(2, be32(1)), ramStart, part, command(11), end, device),
    steps: [
      'drop OPEN_RETURN_PATH',
      'drop PING',
      'ram start 3',
      'ram part 3',
      'keep SWITCHOVER_START',
      'ram end 3',
      'boundary behind END',
    ],
    rest: device.length,
  },
  {
    name: 'with dirty bitmaps, whose END lies in the tail',
    bytes: bytesOf(command(3), ramStart, bitmapStart, part, bitmapPart, end, bitmapEnd),
    steps: [
      'keep POSTCOPY_ADVISE',
      'ram start 3',
      `dirty-bitmap ${bitmapStart.length}`,
      'ram part 3',
      `empty dirty-bitmap ${bitmapPart.length}`,
      'ram end 3',
      'boundary behind END',
    ],
    rest: bitmapEnd.length,
  },
  {
    name: 'with dirty bitmaps that begin before RAM and end before it',
    bytes: bytesOf(bitmapStart, ramStart, bitmapEnd, end, device),
    steps: [
      `dirty-bitmap ${bitmapStart.length}`,
      'ram start 3',
      `dirty-bitmap ${bitmapEnd.length}`,
      'ram end 3',
      'boundary behind END',
    ],
    rest: device.length,
  },
  {
    name: 'with virtio-mem',
    bytes: bytesOf(ramStart, virtioMem, part, end),
    steps: [
      'ram start 3',
      `x/virtio-mem-device-early ${virtioMem.length}`,
      'ram part 3',
      'ram end 3',
      'boundary behind END',
    ],
    rest: 0,
  },
  {
    name: 'a background snapshot',
    bytes: bytesOf(ramStart, part, device),
    steps: ['ram start 3', 'ram part 3', 'boundary without END'],
    rest: device.length,
  },
  {
    name: 'no device at all',
    bytes: bytesOf(ramStart, 0),
    steps: ['ram start 3', 'boundary without END'],
    rest: 1,
  },
  {
    name: 'postcopy',
    bytes: bytesOf(ramStart, command(4)),
    steps: ['ram start 3', 'refuse POSTCOPY_LISTEN', 'more'],
    rest: 0,
  },
  {
    name: 'disks in the stream',
    bytes: bytesOf(ramStart, named(1, 7, 'block')),
    steps: ['ram start 3', `refuse ${refusals.blockMigration}`],
    rest: named(1, 7, 'block').length,
  },
]
for (const { name, bytes, steps, rest } of streams) {
  t.test(`a stream is walked to where it becomes opaque: ${name}`, (t) => {
    const found = walk(bytes)
    t.same(found.steps, steps)
    t.equal(found.at, bytes.length - rest)
    t.end()
  })
}

const wrong = [
  { name: 'a device before RAM', bytes: device, says: 'found section 9 "timer" before RAM' },
  { name: 'EOF before RAM', bytes: bytesOf(0), says: 'found EOF before RAM' },
  { name: 'a description before EOF', bytes: bytesOf(ramStart, 6, be32(2)), says: 'comes before EOF' },
  { name: 'RAM twice', bytes: bytesOf(ramStart, named(1, 8, 'ram', 4)), says: 'a second START' },
  {
    name: 'one id twice',
    bytes: bytesOf(ramStart, named(1, 3, 'dirty-bitmap')),
    says: 'an id that is in use',
  },
  {
    name: 'a PART of nothing',
    bytes: bytesOf(ramStart, 2, be32(77)),
    says: 'PART of section 77: found no such section',
  },
  {
    name: 'a PART after its END',
    bytes: bytesOf(bitmapStart, ramStart, bitmapEnd, bitmapPart),
    says: 'PART of section 4: found no such section',
  },
  {
    name: 'the footer of another section',
    bytes: bytesOf(ramStart, 2, be32(3), be64(0x10), footer(4)),
    says: 'section id of a footer .*found 4, expected 3',
  },
  { name: 'no footer', bytes: bytesOf(bitmapStart.subarray(0, -5), 8), says: 'footer of section 4' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a stream is wrong: ${name}`, (t) => {
    t.throws(() => walk(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a section or command is seen only when it is whole, and then begins nothing twice', (t) => {
  for (const bytes of [bitmapStart, virtioMem, command(2, be32(1)), command(11)]) {
    const outline = new Outline()
    for (let length = 0; length < bytes.length; length++)
      if (outline.next(bytes.subarray(0, length)) !== undefined) t.fail(`a step of ${length} bytes`)
    t.equal(outline.next(bytesOf(bytes, 0xee))?.length, bytes.length)
  }
  t.end()
})

t.test('sections that have not ended are known at the boundary', (t) => {
  const outline = new Outline()
  outline.next(bitmapStart)
  outline.next(named(1, 3, 'ram', 4))
  outline.ramFooter(footer(3))
  t.same(
    [...outline.open],
    [
      [4, 'dirty-bitmap'],
      [3, 'ram'],
    ],
  )
  outline.next(bytesOf(3, be32(3)))
  outline.ramFooter(footer(3))
  t.same([...outline.open], [[4, 'dirty-bitmap']])
  t.same(outline.next(new Uint8Array()), { value: { kind: 'boundary', ramEnded: true }, length: 0 })
  t.end()
})

t.test('calls in the wrong order are mistakes of the program', (t) => {
  const outline = new Outline()
  t.throws(() => outline.ramFooter(footer(3)), new Error('no body of RAM is being read'))
  outline.next(named(1, 3, 'ram', 4))
  t.equal(outline.ramFooter(footer(3).subarray(0, 4)), undefined)
  t.throws(() => outline.next(part), new Error('a body of RAM is being read'))
  t.end()
})

t.test('a stream put together from its pieces is walked', (t) => {
  const head = formatStreamHead(configuration, 3)
  const stream = bytesOf(head, formatRamStart(blocks, false), footer(3), part, end)
  const from = PREAMBLE_LENGTH + (parseConfiguration(stream.subarray(PREAMBLE_LENGTH))?.length ?? 0)
  t.same(walk(stream.subarray(from)).steps, ['ram start 3', 'ram part 3', 'ram end 3', 'boundary behind END'])
  t.same(part, bytesOf(2, be32(3), formatRamEos(3)))
  t.end()
})
