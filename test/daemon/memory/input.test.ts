// SPDX-License-Identifier: Apache-2.0
// Bytes that come one behind the other, however few come at a time and however many a structure has.

import t, { type Test } from 'tap'
import { Cancelled } from '../../../daemon/errors.js'
import { Input } from '../../../daemon/memory/input.js'
import { Pace } from '../../../daemon/memory/pace.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { WaitMeter } from '../../../daemon/memory/wait-meter.js'
import { createEngine } from '../../../native/engine.js'
import { within } from '../../helpers/waiting.js'
import { HANG_MS } from './attempt.js'

const SLOT = 4096
const MOST = 16

interface Case {
  readonly name: string
  /** Bytes that come at once. */
  readonly piece: number
  /** Bytes of the structure. */
  readonly length: number
}

const cases: readonly Case[] = [
  { name: 'byte by byte, with more bytes than slots', piece: 1, length: 10 * MOST },
  { name: 'in pieces that do not fill a slot', piece: 1000, length: SLOT * MOST },
  { name: 'longer than all slots', piece: SLOT, length: 4 * SLOT * MOST },
  { name: 'longer than all slots, in pieces of half a slot and more', piece: 2500, length: 4 * SLOT * MOST },
]

/** Bytes that tell where they are. */
function numbered(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 255)
}

/** An input of these bytes, and what goes through its tap. */
function inputOf(t: Test, bytes: Uint8Array, piece: number) {
  const engine = createEngine({ aio: 'threads', slotSize: SLOT, maxSlots: MOST })
  t.teardown(() => engine.shutdown(5000))
  const slots = new Slots(engine, MOST)
  const tapped: Uint8Array[] = []
  let at = 0
  const input = new Input({
    ...{
      slots,
      origin: 0,
      name: 'source',
      depth: 4,
      share: slots.forReceivers,
      pace: new Pace(0, new AbortController().signal),
      signal: new AbortController().signal,
      meter: new WaitMeter(),
    },
    pausePoint: async () => {},
    receive: async (slot, wanted) => {
      const part = bytes.subarray(at, at + Math.min(piece, wanted))
      at += part.length
      slots.bytes(slot).set(part)
      return part.length
    },
    tap: async (part) => {
      tapped.push(part.slice())
      await new Promise((resolve) => setImmediate(resolve))
    },
  })
  return { input, tapped }
}

for (const { name, piece, length } of cases)
  t.test(`a structure is read that comes ${name}`, async (t) => {
    const bytes = numbered(length + 100)
    const { input, tapped } = inputOf(t, bytes, piece)
    const parse = (prefix: Uint8Array) =>
      prefix.length < length ? undefined : { value: prefix.slice(0, length), length }
    const value = await within(input.parse(parse, 'a structure'), HANG_MS, 'the structure')
    t.ok(Buffer.from(value).equals(bytes.subarray(0, length)), 'these bytes')
    t.equal(input.position, length)
    const rest = await within(input.bytes(100, 'what follows'), HANG_MS, 'what follows it')
    t.ok(Buffer.from(rest).equals(bytes.subarray(length)), 'what follows is there')
    t.equal(await input.chunk(), undefined)
    t.ok(Buffer.concat(tapped).equals(bytes), 'each byte went through the tap once')
    input.close()
  })

t.test('an input that ends within a structure says where, and within what', async (t) => {
  const { input } = inputOf(t, numbered(3 * SLOT * MOST), 1000)
  await t.rejects(
    input.parse(() => undefined, 'a structure'),
    { message: `source ends at offset ${3 * SLOT * MOST}, within a structure` },
  )
})

t.test('an input that is closed while a structure is read ends the reading', async (t) => {
  const { input } = inputOf(t, numbered(3 * SLOT * MOST), 1000)
  const reading = input.parse(() => {
    input.close()
    return undefined
  }, 'a structure')
  await t.rejects(within(reading, HANG_MS, 'the end of it'), Cancelled)
})
