// SPDX-License-Identifier: Apache-2.0
// Reads a whole stream or mapped-ram file with the product's codecs, one structure after the other, the way a consumer
// does, and shows every structure to a hook before it is taken.

import { FormatError } from '../../../protocol/format-error.js'
import { type BlockFields, blockFields, parseRamStart } from '../../../protocol/migration/block-list.js'
import type { Parsed } from '../../../protocol/migration/bytes.js'
import { type Configuration, parseConfiguration } from '../../../protocol/migration/configuration.js'
import { isPageSet } from '../../../protocol/migration/mapped-bitmap.js'
import type { MappedLayout } from '../../../protocol/migration/mapped-layout.js'
import { MAX_ENTRY_LENGTH, MappedList } from '../../../protocol/migration/mapped-list.js'
import { Outline, type Step } from '../../../protocol/migration/outline.js'
import { type RamRecord, RamRecords } from '../../../protocol/migration/page-record.js'
import { parsePreamble } from '../../../protocol/migration/preamble.js'
import { applyDelta } from '../../../protocol/migration/xbzrle.js'

type Parser = (bytes: Uint8Array, origin: number) => Parsed<unknown> | undefined

/** A structure that was read. Its parser needs `ahead` bytes more than it takes. */
export interface Taken {
  readonly what: string
  readonly at: number
  readonly length: number
  readonly ahead: number
}

export interface Hooks {
  /** Called before a structure is taken, the index-th. A call of the parser that asks for more changes nothing. */
  readonly before?: (index: number, parse: Parser) => void
  /** No memory is kept. */
  readonly structureOnly?: boolean
  /** Called for every record, after it was applied; those that end START are among them. */
  readonly record?: (record: RamRecord, walk: CodecWalk) => void
}

export class CodecWalk {
  readonly bytes: Uint8Array
  readonly base: number
  readonly steps: { readonly at: number; readonly step: Step }[] = []
  readonly taken: Taken[] = []
  readonly records = { page: 0, zero: 0, xbzrle: 0, sync: 0, eos: 0 }
  readonly memory = new Map<string, Uint8Array>()
  readonly outline = new Outline()
  readonly configuration: Configuration
  /** Offset of the body of START of RAM. */
  bodyOffset = -1
  total = 0
  syncRecord = false
  layout: MappedLayout | undefined
  at: number
  readonly #fields: BlockFields
  readonly #hooks: Hooks
  #walker: RamRecords | undefined

  /** @throws an Error when the bytes end before the boundary */
  constructor(bytes: Uint8Array, base: number, hooks: Hooks = {}) {
    this.bytes = bytes
    this.base = base
    this.at = base
    this.#hooks = hooks
    this.#take('preamble', parsePreamble)
    this.configuration = this.#take('configuration', parseConfiguration, 1)
    this.#fields = blockFields(this.configuration, false)
    while (this.#step());
  }

  get tail(): Uint8Array {
    return this.bytes.subarray(this.at)
  }

  /** @returns whether there is more in front of the boundary */
  #step(): boolean {
    const { at } = this
    const step = this.#take('step', (bytes, origin) => this.outline.next(bytes, origin))
    this.steps.push({ at, step })
    if (step.kind === 'refuse') throw new FormatError(step.reason)
    if (step.kind === 'boundary') return false
    if (step.kind !== 'ram') return true
    if (step.part === 'start') this.#start()
    else this.#records()
    this.#take('footer', (bytes, origin) => this.outline.ramFooter(bytes, origin))
    return true
  }

  #start(): void {
    this.bodyOffset = this.at
    if (this.#fields.mapped) this.#mappedList()
    else {
      const start = this.#take('START', (bytes, origin) => parseRamStart(bytes, this.#fields, origin))
      this.#begin(start.total, start.blocks)
      this.syncRecord = start.syncRecord
      if (this.syncRecord) this.#hooks.record?.({ kind: 'sync' }, this)
      this.#hooks.record?.({ kind: 'eos' }, this)
    }
  }

  #begin(total: number, blocks: readonly { readonly name: string; readonly usedLength: number }[]): void {
    this.total = total
    this.#walker = new RamRecords(blocks, this.#fields.pageSize)
    if (this.#hooks.structureOnly) return
    for (const { name, usedLength } of blocks) this.memory.set(name, new Uint8Array(usedLength))
  }

  #mappedList(): void {
    const place = { base: this.base, at: this.at, fileLength: this.bytes.length }
    const list = MappedList.begin(this.bytes.subarray(this.at), this.#fields, place)
    if (list === undefined) throw new Error('more bytes are needed')
    while (list.next !== undefined) {
      const from = list.next
      const entry = list.add(this.bytes.subarray(from, from + MAX_ENTRY_LENGTH))
      if (entry === undefined) throw new Error('more bytes are needed')
    }
    this.layout = list.finish()
    this.#begin(
      this.layout.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0),
      this.layout.blocks,
    )
    for (const block of this.layout.blocks) this.#readPages(block)
    this.at = this.layout.tailOffset
    this.#records()
  }

  #readPages({ name, usedLength, mapped, bitmapLength }: MappedLayout['blocks'][number]): void {
    const bitmap = this.bytes.subarray(mapped.bitmapOffset, mapped.bitmapOffset + bitmapLength)
    for (let offset = 0; offset < usedLength; offset += mapped.pageSize) {
      if (!isPageSet(bitmap, offset / mapped.pageSize)) continue
      const from = mapped.pagesOffset + offset
      this.memory.get(name)?.set(this.bytes.subarray(from, from + mapped.pageSize), offset)
    }
  }

  #records(): void {
    const walker = this.#walker
    if (walker === undefined) throw new Error('records before START')
    for (;;) {
      const record = this.#take('record', (bytes, origin) => walker.next(bytes, origin))
      this.#apply(record)
      this.records[record.kind] += 1
      this.#hooks.record?.(record, this)
      if (record.kind === 'eos') return
    }
  }

  #apply(record: RamRecord): void {
    if (!('block' in record) || this.#hooks.structureOnly) return
    const { pageSize } = this.#fields
    const page = this.memory.get(record.block)?.subarray(record.offset, record.offset + pageSize)
    if (page?.length !== pageSize) throw new Error('a page outside of its block')
    if (record.kind === 'page') page.set(record.data)
    else if (record.kind === 'zero') page.fill(0)
    else applyDelta(page, record.delta)
  }

  #take<T>(what: string, parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined, ahead = 0): T {
    this.#hooks.before?.(this.taken.length, parse)
    const { at } = this
    const parsed = parse(this.bytes.subarray(at), at)
    if (parsed === undefined) throw new Error(`more bytes are needed for ${what} at ${at}`)
    this.taken.push({ what, at, length: parsed.length, ahead })
    this.at += parsed.length
    return parsed.value
  }
}
