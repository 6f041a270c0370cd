// SPDX-License-Identifier: Apache-2.0
// Streams of pages for the tests of the scanners: written at random, read by a model that is slow and plain, and fed to a
// scanner in pieces of any size.

import { crc32c } from '../../native/page-scanner.js'
import type { PageScanner, ScannedBlock } from '../../native/stream-types.js'
import type { IoEngine } from '../../native/types.js'
import type { random } from './kinds.js'

export type Below = ReturnType<typeof random>

export const Flag = {
  zero: 0x02,
  memSize: 0x04,
  page: 0x08,
  eos: 0x10,
  continues: 0x20,
  xbzrle: 0x40,
  hook: 0x80,
  compressed: 0x100,
  flush: 0x200,
} as const

export interface BlockSpec {
  readonly name: string
  readonly pages: number
}

/** What happened, in order: stops but for 'input' and 'full', the deltas with what they hold. */
export type Seen = string

export interface Memory {
  readonly blocks: readonly (ScannedBlock & { readonly digests: Uint32Array })[]
  /** What would be in the file. */
  readonly image: Uint8Array
}

export function makeMemory(specs: readonly BlockSpec[], pageSize: number): Memory {
  let place = 3 * pageSize
  const blocks = specs.map(({ name, pages }) => {
    const length = pages * pageSize
    const block = {
      name,
      length,
      place,
      bitmap: new Uint8Array(Math.ceil(pages / 8)),
      digests: new Uint32Array(pages),
    }
    place += length + pageSize
    return block
  })
  return { blocks, image: new Uint8Array(place) }
}

export function record(value: number, flags: number, ...rest: readonly (string | Uint8Array)[]): Buffer {
  const head = Buffer.alloc(8)
  head.writeBigUInt64BE(BigInt(value) + BigInt(flags))
  return Buffer.concat([
    head,
    ...rest.map((each) =>
      typeof each === 'string'
        ? Buffer.concat([Buffer.of(Buffer.byteLength(each)), Buffer.from(each)])
        : each,
    ),
  ])
}

/** A page of data; one in eight is all zero, and one in eight nearly. */
export function randomPage(below: Below, pageSize: number): Uint8Array {
  const page = new Uint8Array(pageSize)
  const kind = below(8)
  if (kind === 0) return page
  if (kind === 1) page[below(pageSize)] = 1 + below(255)
  else for (let at = 0; at < pageSize; at += 1 + below(40)) page[at] = below(256)
  if (page.every((byte) => byte === 0)) page[pageSize - 1] = 1
  return page
}

/** Records as QEMU writes them, and as it could: walks upwards over the blocks, with all that may come in between. */
export function randomRecords(below: Below, specs: readonly BlockSpec[], pageSize: number): Buffer {
  const parts: Buffer[] = []
  let named: string | undefined
  const walks = 1 + below(4)
  for (let walk = 0; walk < walks; walk++) {
    for (const { name, pages } of specs) {
      if (below(4) === 0) continue
      for (let page = below(3); page < pages; page += 1 + (below(3) === 0 ? below(pages) : 0)) {
        const continues = named === name && below(5) > 0
        const flags = continues ? Flag.continues : 0
        const id = continues ? [] : [name]
        named = name
        const kind = below(10)
        const offset = page * pageSize
        if (kind < 6) parts.push(record(offset, flags | Flag.page, ...id, randomPage(below, pageSize)))
        else if (kind < 9) parts.push(record(offset, flags | Flag.zero, ...id, Buffer.of(0)))
        else {
          const delta = Buffer.alloc(below(60), page)
          parts.push(record(offset, flags | Flag.xbzrle, ...id, Buffer.of(1, 0, delta.length), delta))
        }
        if (below(30) === 0) parts.push(record(0, Flag.eos))
        if (below(30) === 0) parts.push(record(0, Flag.flush))
      }
    }
  }
  return Buffer.concat([...parts, record(0, Flag.eos)])
}

/** What a page that was found does to the memory. */
export class Model {
  readonly seen: Seen[] = []
  readonly counts = { zero: 0, normal: 0, delta: 0, foundZero: 0, walks: 0 }
  readonly #memory: Memory
  readonly #pageSize: number
  readonly #gathers: boolean
  #last: [number, number] | undefined

  constructor(memory: Memory, pageSize: number, gathers: boolean) {
    this.#memory = memory
    this.#pageSize = pageSize
    this.#gathers = gathers
  }

  /** Pages of data from `lowest` to `highest` of a block come next. */
  order(block: number, lowest: number, highest: number): void {
    const [lastBlock, lastOffset] = this.#last ?? [-1, 0]
    if (block < lastBlock || (block === lastBlock && lowest <= lastOffset)) {
      this.counts.walks++
      if (this.#gathers) this.seen.push('order')
    }
    this.#last = [block, highest]
  }

  page(number: number, offset: number, data: Uint8Array): void {
    const block = this.#memory.blocks[number]
    if (block === undefined) throw new Error(`block ${number}`)
    this.counts.normal++
    const isZero = this.#gathers && data.every((byte) => byte === 0)
    if (isZero) this.counts.foundZero++
    else if (this.#gathers) this.#memory.image.set(data, block.place + offset)
    this.#mark(number, offset, !isZero, data)
  }

  zero(number: number, offset: number): void {
    this.counts.zero++
    this.#mark(number, offset, false, new Uint8Array(this.#pageSize))
  }

  #mark(number: number, offset: number, set: boolean, data: Uint8Array): void {
    const block = this.#memory.blocks[number]
    const page = offset / this.#pageSize
    const [byte, bit] = [page >> 3, 1 << (page & 7)]
    if (block === undefined) return
    block.bitmap[byte] = set ? (block.bitmap[byte] ?? 0) | bit : (block.bitmap[byte] ?? 0) & ~bit
    block.digests[page] = crc32c(data, true)
  }
}

type Outcome = 'next' | 'cut' | 'bad'

/** Reads the records of `bytes` one by one. */
export class RecordReader {
  readonly #bytes: Buffer
  readonly #memory: Memory
  readonly #pageSize: number
  readonly #model: Model
  #at = 0
  #block = -1

  constructor(bytes: Buffer, memory: Memory, pageSize: number, model: Model) {
    this.#bytes = bytes
    this.#memory = memory
    this.#pageSize = pageSize
    this.#model = model
  }

  /** Up to the end of the bytes, or to what is wrong. */
  replay(): void {
    let outcome: Outcome = 'next'
    while (outcome === 'next') outcome = this.#record()
    if (outcome === 'bad') this.#model.seen.push('bad')
  }

  #record(): Outcome {
    if (this.#at + 8 > this.#bytes.length) return 'cut'
    const value = this.#bytes.readBigUInt64BE(this.#at)
    const flags = Number(value & 0x3ffn)
    const type = flags & ~Flag.continues
    this.#at += 8
    if (value === BigInt(Flag.eos) || value === BigInt(Flag.flush)) {
      this.#model.seen.push(type === Flag.eos ? 'end' : 'sync')
      return 'next'
    }
    const extra = new Map<number, number>([
      [Flag.page, 0],
      [Flag.compressed, 0],
      [Flag.zero, 1],
      [Flag.xbzrle, 3],
    ]).get(type)
    if (extra === undefined) return 'bad'
    let name: Buffer | undefined
    if ((flags & Flag.continues) === 0) {
      const end = this.#at + 1 + (this.#bytes[this.#at] ?? 0)
      name = this.#bytes.subarray(this.#at + 1, end)
      this.#at = end
    }
    const rest = this.#bytes.subarray(this.#at, this.#at + extra)
    this.#at += extra
    if (this.#at > this.#bytes.length) return 'cut'
    if (name !== undefined)
      this.#block = this.#memory.blocks.findIndex((each) => name.equals(Buffer.from(each.name)))
    const offset = Number(value - BigInt(flags))
    const length = this.#memory.blocks[this.#block]?.length ?? 0
    if (type === Flag.compressed || offset % this.#pageSize !== 0 || offset >= length) return 'bad'
    if (type === Flag.page) return this.#page(offset)
    return type === Flag.zero ? this.#zero(offset, rest) : this.#delta(offset, rest)
  }

  #page(offset: number): Outcome {
    this.#model.order(this.#block, offset, offset)
    const data = this.#bytes.subarray(this.#at, this.#at + this.#pageSize)
    this.#at += this.#pageSize
    if (data.length === this.#pageSize) this.#model.page(this.#block, offset, data)
    else this.#model.counts.normal++
    return data.length === this.#pageSize ? 'next' : 'cut'
  }

  #zero(offset: number, rest: Buffer): Outcome {
    if (rest[0] !== 0) return 'bad'
    this.#model.zero(this.#block, offset)
    return 'next'
  }

  #delta(offset: number, rest: Buffer): Outcome {
    const length = rest.readUInt16BE(1)
    if (rest[0] !== 1 || length > this.#pageSize) return 'bad'
    const bytes = this.#bytes.subarray(this.#at, this.#at + length)
    this.#at += length
    if (bytes.length < length) return 'cut'
    this.#model.counts.delta++
    this.#model.seen.push(deltaText(this.#block, offset, bytes))
    return 'next'
  }
}

function deltaText(block: number, offset: number, bytes: Uint8Array): Seen {
  return `delta ${block} ${offset} ${Buffer.from(bytes).toString('hex')}`
}

export interface Feeding {
  readonly engine: IoEngine
  readonly scanner: PageScanner
  readonly memory: Memory
  readonly gathers: boolean
  /** Slots of the engine: the input goes through the first, pages are gathered in the others in turn. */
  readonly slots: readonly number[]
  /** Bytes given at once. */
  size(left: number): number
  /** Whether what was gathered is taken although there is room. */
  takes(): boolean
}

/** Feeds all of it and does what the stops ask for. @returns what happened */
export function feed(bytes: Uint8Array, feeding: Feeding): Seen[] {
  const { engine, scanner, gathers, memory, slots } = feeding
  const [input = 0, ...gathering] = slots
  const seen: Seen[] = []
  let turn = -1
  const another = () => {
    turn = (turn + 1) % gathering.length
    const slot = gathering[turn] ?? 0
    engine.slotBytes(slot).fill(0xaa)
    scanner.gatherInto(slot)
  }
  const write = () => {
    const { pieces, length } = scanner.take()
    const from = engine.slotBytes(gathering[turn] ?? 0)
    let at = 0
    for (const piece of pieces) {
      memory.image.set(from.subarray(at, at + piece.length), piece.offset)
      at += piece.length
    }
    if (at !== length) throw new Error(`${length} bytes in pieces of ${at}`)
    another()
  }
  if (gathers) another()
  for (let at = 0; at < bytes.length; ) {
    const length = Math.max(1, Math.min(feeding.size(bytes.length - at), bytes.length - at, engine.slotSize))
    const offset = engine.slotSize - length
    engine.slotBytes(input).set(bytes.subarray(at, at + length), offset)
    let taken = 0
    for (let again = true; again; ) {
      const result = scanner.scan(input, offset + taken, length - taken)
      taken += result.taken
      again = result.stop !== 'input'
      if (result.stop === 'full') write()
      else if (result.stop === 'delta') {
        const { block, offset: place, bytes: delta } = scanner.delta()
        seen.push(deltaText(block, place, delta))
      } else if (result.stop !== 'input') seen.push(result.stop)
      if (result.stop === 'bad') return seen
      if (result.stop === 'order' || (gathers && feeding.takes())) write()
    }
    if (taken !== length) throw new Error(`${taken} of ${length} bytes taken`)
    at += length
  }
  if (gathers) write()
  return seen
}
