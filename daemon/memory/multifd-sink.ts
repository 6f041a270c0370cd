// SPDX-License-Identifier: Apache-2.0
// Sink: a QEMU that comes in with multifd. Pages go out as packets over several channels at once, everything else over the
// main connection. Sync points are all the order there is between connections: one before the pages, one at each barrier behind
// pages, one at their end.

import type { FilePart } from '../../native/stream-types.js'
import type { FileId, Range } from '../../native/types.js'
import { formatBlock, formatMemSize, totalOf } from '../../protocol/migration/block-list.js'
import { concat, Writer } from '../../protocol/migration/bytes.js'
import { isSince } from '../../protocol/migration/machine.js'
import { formatHello } from '../../protocol/migration/multifd-hello.js'
import { formatPacket, packetCapacity } from '../../protocol/migration/multifd-packet.js'
import { RamFlag } from '../../protocol/migration/ram-flags.js'
import { formatRamEos, formatStreamHead } from '../../protocol/migration/ram-frame.js'
import { formatHead } from '../../protocol/migration/section.js'
import type { BlockPlace, FilePages, ImageHead, MemorySink, PageBatch } from './image.js'
import { Lane, type PacketBytes } from './multifd-lane.js'
import { placesInLine } from './null-sink.js'
import { SentPages } from './sent-pages.js'
import type { Slots } from './slots.js'
import { runsOf } from './stream-sink.js'
import type { StreamWriter } from './stream-writer.js'

export interface MultifdSinkOptions {
  readonly slots: Slots
  /** The main connection. */
  readonly writer: StreamWriter
  readonly channels: readonly FileId[]
  /** For errors. */
  readonly name: string
  /** Records for all pages that are zero: for memory that is not fresh. */
  readonly zeroPages: boolean
  /** The channels are Unix sockets: pages of files can go straight into them. */
  readonly local: boolean
}

/** The head of a packet, and its pages in places of the sink. */
interface Packet {
  readonly head: Uint8Array
  readonly ranges: readonly Range[]
}

interface Begun {
  readonly head: ImageHead
  readonly places: readonly BlockPlace[]
  readonly sent: SentPages
}

/** Machine types since this one mark sync points once per walk over memory; older ones at the end of every section. */
const PER_WALK = [8, 1] as const
const UUID_LENGTH = 16

export class MultifdSink implements MemorySink {
  readonly #options: MultifdSinkOptions
  readonly #lanes: Lane[]
  #begun: Begun | undefined
  /** Pages went out behind the last sync point. */
  #unsynced = false
  #number = 0
  /** Pages in the sockets are still the file's. */
  #fromFile = false
  readonly filePages: MemorySink['filePages']

  constructor(options: MultifdSinkOptions) {
    this.#options = options
    this.#lanes = options.channels.map((stream) => new Lane(options.slots, stream, options.name))
    this.filePages = options.local ? (pages) => this.#sendFile(pages) : undefined
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const places = placesInLine(head)
    this.#begun = { head, places, sent: new SentPages(head, places) }
    const { writer } = this.#options
    const uuid = head.configuration.uuid ?? new Uint8Array(UUID_LENGTH)
    for (const [channel, lane] of this.#lanes.entries()) await lane.send(formatHello({ uuid, channel }))
    const blocks = head.blocks.map(({ name, length }) => ({ name, usedLength: length }))
    await writer.bytes(
      concat([
        formatStreamHead(head.configuration, head.section),
        formatMemSize(totalOf(blocks)),
        ...blocks.map(formatBlock),
      ]),
    )
    await this.#sync(head)
    return places
  }

  async pages({ slot, pieces }: PageBatch): Promise<void> {
    this.#unsynced = true
    try {
      const packets: PacketBytes[] = []
      let slotOffset = 0
      for (const { head, ranges } of this.#packets(pieces)) {
        const dataLength = lengthOf(ranges)
        packets.push({ bytes: head, slotOffset, dataLength })
        slotOffset += dataLength
      }
      await this.#shortestLane().sendPackets(slot, packets)
    } finally {
      this.#options.slots.give(slot)
    }
  }

  /** What was sent is not in its place yet: the other side reads each connection by itself, up to the next sync point. */
  async barrier(): Promise<void> {
    const { head } = this.#started()
    await this.#sent()
    if (!this.#unsynced) return
    this.#unsynced = false
    await this.#options.writer.bytes(formatHead({ kind: 'part', id: head.section }))
    await this.#sync(head)
  }

  early(bytes: Uint8Array): Promise<void> {
    return this.#options.writer.bytes(bytes)
  }

  async pagesDone(): Promise<void> {
    const { head, sent } = this.#started()
    const { writer, zeroPages } = this.#options
    await this.barrier()
    await writer.bytes(formatHead({ kind: 'part', id: head.section }))
    for (const bytes of sent.zeroRecords(zeroPages)) await writer.bytes(bytes)
    await this.#sync(head)
    await writer.bytes(formatHead({ kind: 'end', id: head.section }))
    if (isSince(head.configuration.machine, PER_WALK)) await writer.bytes(formatRamEos(head.section))
    else await this.#sync(head)
  }

  tail(bytes: Uint8Array): Promise<void> {
    return this.#options.writer.bytes(bytes)
  }

  async finish(): Promise<void> {
    await this.#sent()
    await this.#options.writer.flush()
    if (this.#fromFile) await Promise.all(this.#lanes.map((lane) => lane.drain()))
    for (const lane of this.#lanes) lane.drop()
  }

  async abort(): Promise<void> {
    for (const { stream } of this.#lanes) this.#options.slots.engine.shutdownStream(stream, 'both')
    await this.#options.writer.drop()
    // The source has waited for what it gave already, so this does not wait for its storage. The rest ends with the streams.
    for (const lane of this.#lanes) await lane.idle().catch(() => undefined)
    for (const lane of this.#lanes) lane.drop()
  }

  /** Everything is out on the channels. */
  async #sent(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.idle()))
  }

  /** A sync point on every channel, and on the main connection the end of the section's body with its mark. */
  async #sync(head: ImageHead): Promise<void> {
    const empty = { method: 'none', block: '', normal: [], zero: [], dataLength: 0 } as const
    for (const lane of this.#lanes)
      await lane.send(formatPacket({ ...empty, sync: true, number: this.#number++ }, head.pageSize))
    const mark = isSince(head.configuration.machine, PER_WALK)
      ? new Writer().u64(RamFlag.multifdFlush).finish()
      : new Uint8Array()
    await this.#options.writer.bytes(concat([mark, formatRamEos(head.section)]))
  }

  async #sendFile({ file, pieces, shift }: FilePages): Promise<void> {
    this.#unsynced = true
    this.#fromFile = true
    const heads: Uint8Array[] = []
    const parts: FilePart[] = []
    for (const { head, ranges } of this.#packets(pieces)) {
      heads.push(head)
      for (const [index, { offset, length }] of ranges.entries())
        parts.push({ head: index === 0 ? head.length : 0, offset: offset + shift, length })
    }
    await this.#shortestLane().sendFile(file, concat(heads), parts)
  }

  #shortestLane(): Lane {
    const [first, ...others] = this.#lanes
    if (first === undefined) throw new Error('there are no channels')
    return others.reduce((best, one) => (one.waiting < best.waiting ? one : best), first)
  }

  #packets(pieces: readonly Range[]): Packet[] {
    const { head, places, sent } = this.#started()
    const { pageSize } = head
    const packets: Packet[] = []
    for (const run of runsOf(pieces, places, head)) {
      const { block, ranges } = run
      sent.add(run)
      const name = head.blocks[block]?.name ?? ''
      const place = places[block]?.place ?? 0
      for (const part of cut(ranges, packetCapacity(pageSize) * pageSize)) {
        const normal = part.flatMap(({ offset, length }) =>
          Array.from({ length: length / pageSize }, (_, index) => offset + index * pageSize),
        )
        const number = this.#number++
        const dataLength = lengthOf(part)
        const packet = {
          sync: false,
          method: 'none',
          block: name,
          normal,
          zero: [],
          dataLength,
          number,
        } as const
        const moved = part.map(({ offset, length }) => ({ offset: offset + place, length }))
        packets.push({ head: formatPacket(packet, pageSize), ranges: moved })
      }
    }
    return packets
  }

  #started(): Begun {
    if (this.#begun === undefined) throw new Error('the sink has not begun')
    return this.#begun
  }
}

/** Ranges in parts of at most so many bytes. */
function* cut(ranges: readonly Range[], most: number): Generator<Range[]> {
  let part: Range[] = []
  let room = most
  for (let { offset, length } of ranges) {
    while (length > 0) {
      const step = Math.min(length, room)
      part.push({ offset, length: step })
      offset += step
      length -= step
      room -= step
      if (room > 0) continue
      yield part
      part = []
      room = most
    }
  }
  if (part.length > 0) yield part
}

function lengthOf(ranges: readonly Range[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0)
}
