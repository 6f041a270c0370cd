// SPDX-License-Identifier: Apache-2.0
// Reads a whole migration in memory in the plainest way, and says what is in it: the oracle for everything that reads or
// writes these formats. Shares no code with the product; checked against the manifest of the recorded files.
// Anything unexpected throws. Streams and mapped-ram files here, what is made of several files in replay-sets.ts.

import assert from 'node:assert'
import { Cursor } from './cursor.js'
import { bitmapBody, deltaInto, endOf } from './replay-parts.js'

const PAGE = 4096

export interface Block {
  readonly name: string
  readonly usedLength: number
  readonly memory: Buffer
  /** Guest-physical, of x-ignore-shared. */
  readonly address?: number
  readonly mapped?: MappedPlaces
}

/** Offsets of the file. `bits` are the pages whose bit is set. */
export interface MappedPlaces {
  readonly headerOffset: number
  readonly bitmapOffset: number
  readonly pagesOffset: number
  readonly bits: number
}

export interface Subsection {
  readonly name: string
  readonly ver: number
  caps?: string[]
  bits?: number
  uuid?: string
}

/** Another section before the end of RAM, and how often it came. */
export interface Other {
  readonly id: number
  readonly idstr: string
  START: number
  PART: number
  END: number
}

export interface Hooks {
  /** Called at every sync point of the main connection, after the records before it. */
  readonly sync?: (blocks: readonly Block[]) => void
}

const commandNames = [
  '',
  'OPEN_RETURN_PATH',
  'PING',
  'POSTCOPY_ADVISE',
  'POSTCOPY_LISTEN',
  'POSTCOPY_RUN',
  'POSTCOPY_RAM_DISCARD',
  'PACKAGED',
  'ENABLE_COLO',
  'POSTCOPY_RESUME',
  'RECV_BITMAP',
  'SWITCHOVER_START',
]

/** One stream. Offsets are those of `bytes`. */
export class Replay {
  readonly configuration: { machine: string; subsections: Subsection[] } = { machine: '', subsections: [] }
  readonly blocks: Block[] = []
  readonly records = { zero: 0, page: 0, xbzrle: 0 }
  readonly commands: { name: string; payload: string }[] = []
  readonly others: Other[] = []
  /** FULL sections between START and END of RAM, headers and footers counted in. */
  readonly early: { offset: number; idstr: string; length: number }[] = []
  ramSectionId = -1
  total = 0
  eosCount = 0
  flushCount = 0
  syncPoints = 0
  syncStyle: 'EOS' | 'MULTIFD_FLUSH' = 'EOS'
  /** Behind the footer of END of RAM; undefined where there is none. */
  ramEnd: number | undefined
  /** From here on the bytes are of no concern to who only wants memory. */
  boundary = -1
  /** The first section with the state of a device, or EOF. */
  tailOffset = -1
  eofOffset = -1
  descriptionLength = 0
  deviceSections: string[] = []
  readonly #cursor: Cursor
  readonly #hooks: Hooks
  #current: Block | undefined

  /** @param start  where the stream begins */
  constructor(bytes: Buffer, start = 0, hooks: Hooks = {}) {
    this.#cursor = new Cursor(bytes, start)
    this.#hooks = hooks
    this.#head()
    while (this.boundary < 0) this.#section()
    this.#tail()
  }

  /** Everything from the boundary on. */
  get tail(): Buffer {
    return this.#cursor.bytes.subarray(this.boundary)
  }

  block(name: string): Block {
    const found = this.blocks.find((block) => block.name === name)
    assert(found, `no block is called ${name}`)
    return found
  }

  lists(capability: string): boolean {
    return this.configuration.subsections.some(({ caps }) => caps?.includes(capability))
  }

  #head(): void {
    const cursor = this.#cursor
    assert.equal(cursor.take(4).toString(), 'QEVM')
    assert.equal(cursor.u32(), 3)
    assert.equal(cursor.u8(), 7)
    this.configuration.machine = cursor.take(cursor.u32()).toString()
    while (cursor.bytes[cursor.at] === 5) {
      cursor.at += 1
      const found: Subsection = { name: cursor.counted(), ver: cursor.u32() }
      if (found.name === 'configuration/target-page-bits') found.bits = cursor.u32()
      else if (found.name === 'configuration/uuid') found.uuid = cursor.take(16).toString('hex')
      else found.caps = Array.from({ length: cursor.u32() }, () => cursor.counted())
      this.configuration.subsections.push(found)
    }
  }

  #section(): void {
    const offset = this.#cursor.at
    const type = this.#cursor.u8()
    if (type === 0) this.#endAt(offset)
    else if (type === 1) this.#start()
    else if (type === 2 || type === 3) this.#body(type)
    else if (type === 4) this.#full(offset)
    else if (type === 8) this.#command()
    else assert.fail(`section type ${type} at ${offset}`)
  }

  #start(): void {
    const { id, idstr, instance, version } = this.#header()
    if (idstr !== 'ram') this.#otherStart(id, idstr)
    else {
      assert.equal(instance, 0)
      assert.equal(version, 4)
      this.#ramStart(id)
    }
    this.#footer(id)
  }

  #body(type: 2 | 3): void {
    const id = this.#cursor.u32()
    if (id === this.ramSectionId) this.#ramRecords()
    else this.#otherBody(id, type === 2 ? 'PART' : 'END')
    this.#footer(id)
    if (type === 2 || id !== this.ramSectionId) return
    this.ramEnd = this.#cursor.at
    this.boundary = this.#cursor.at
  }

  #full(offset: number): void {
    const { id, idstr } = this.#header()
    if (!idstr.endsWith('virtio-mem-device-early')) {
      this.#endAt(offset)
      return
    }
    this.#virtioMem()
    this.#footer(id)
    this.early.push({ offset, idstr, length: this.#cursor.at - offset })
  }

  #header() {
    const cursor = this.#cursor
    return { id: cursor.u32(), idstr: cursor.counted(), instance: cursor.u32(), version: cursor.u32() }
  }

  #endAt(offset: number): void {
    this.boundary = offset
    this.#cursor.at = offset
  }

  #command(): void {
    const name = commandNames[this.#cursor.u16()]
    assert(name, 'a known command')
    this.commands.push({ name, payload: this.#cursor.take(this.#cursor.u16()).toString('hex') })
  }

  #footer(id: number): void {
    assert.equal(this.#cursor.u8(), 0x7e)
    assert.equal(this.#cursor.u32(), id)
  }

  #otherStart(id: number, idstr: string): void {
    assert.equal(idstr, 'dirty-bitmap')
    this.others.push({ id, idstr, START: 0, PART: 0, END: 0 })
    this.#otherBody(id, 'START')
  }

  #otherBody(id: number, kind: 'START' | 'PART' | 'END'): void {
    const other = this.others.find((one) => one.id === id)
    assert(other, `section ${id} was started`)
    other[kind] += 1
    bitmapBody(this.#cursor)
  }

  #virtioMem(): void {
    const cursor = this.#cursor
    cursor.at += 8
    const [region, block] = [cursor.u64(), cursor.u64()]
    cursor.at += 4 + 8 + 8 * Math.ceil(region / block / 64)
  }

  #ramStart(id: number): void {
    this.ramSectionId = id
    const word = this.#cursor.u64()
    assert.equal(word % PAGE, 4)
    this.total = word - 4
    let listed = 0
    while (listed < this.total) {
      const block = this.#entry()
      this.blocks.push(block)
      listed += block.usedLength
    }
    assert.equal(listed, this.total)
    const flushes = this.flushCount
    if (this.#cursor.bytes.readUInt16BE(this.#cursor.at + 6) === 0x200) this.syncStyle = 'MULTIFD_FLUSH'
    this.#ramRecords()
    assert(this.flushCount - flushes <= 1)
  }

  #entry(): Block {
    const cursor = this.#cursor
    const headerOffset = cursor.at
    const [name, usedLength] = [cursor.counted(), cursor.u64()]
    const block = { name, usedLength, memory: Buffer.alloc(usedLength) }
    if (this.lists('x-ignore-shared')) return { ...block, address: cursor.u64() }
    if (!this.lists('mapped-ram')) return block
    assert.equal(cursor.u32(), 1)
    assert.equal(cursor.u64(), PAGE)
    const [bitmapOffset, pagesOffset] = [cursor.u64(), cursor.u64()]
    let bits = 0
    for (let page = 0; page < usedLength / PAGE; page++) {
      const byte = cursor.bytes.readUInt8(bitmapOffset + Math.floor(page / 8))
      if (((byte >> (page % 8)) & 1) === 0) continue
      cursor.bytes.copy(block.memory, page * PAGE, pagesOffset + page * PAGE, pagesOffset + (page + 1) * PAGE)
      bits += 1
    }
    cursor.at = pagesOffset + usedLength
    return { ...block, mapped: { headerOffset, bitmapOffset, pagesOffset, bits } }
  }

  /** Records to EOS, which may be a sync point itself. */
  #ramRecords(): void {
    for (;;) {
      const word = this.#cursor.u64()
      const flags = word % PAGE
      if (flags === 0x10) break
      if (flags === 0x200) {
        this.flushCount += 1
        this.#sync('MULTIFD_FLUSH')
      } else this.#page(flags, word - flags)
    }
    this.eosCount += 1
    this.#sync('EOS')
  }

  #sync(style: 'EOS' | 'MULTIFD_FLUSH'): void {
    if (style !== this.syncStyle) return
    this.syncPoints += 1
    this.#hooks.sync?.(this.blocks)
  }

  #page(flags: number, offset: number): void {
    const cursor = this.#cursor
    if ((flags & 0x20) === 0) this.#current = this.block(cursor.counted())
    const block = this.#current
    assert(block && offset + PAGE <= block.usedLength, `page ${offset} of ${block?.name}`)
    const page = block.memory.subarray(offset, offset + PAGE)
    switch (flags & ~0x20) {
      case 0x02:
        assert.equal(cursor.u8(), 0)
        page.fill(0)
        this.records.zero += 1
        break
      case 0x08:
        page.set(cursor.take(PAGE))
        this.records.page += 1
        break
      case 0x40:
        assert.equal(cursor.u8(), 1)
        deltaInto(page, cursor.take(cursor.u16()))
        this.records.xbzrle += 1
        break
      default:
        assert.fail(`flags ${flags} at ${cursor.at - 8}`)
    }
  }

  #tail(): void {
    const cursor = this.#cursor
    while (cursor.bytes[cursor.at] === 3) {
      cursor.at += 1
      const id = cursor.u32()
      bitmapBody(cursor)
      this.#footer(id)
    }
    this.tailOffset = cursor.at
    const { eofOffset, json } = endOf(cursor.bytes)
    this.eofOffset = eofOffset
    this.descriptionLength = json.length
    const { devices } = JSON.parse(json.toString()) as { devices: { name: string; instance_id: number }[] }
    this.deviceSections = devices.map(({ name, instance_id }) => `${name}/${instance_id}`)
  }
}
