// SPDX-License-Identifier: Apache-2.0
// Sink: a QEMU that comes in with multifd. Pages go out as packets over several channels at once, everything else over the
// main connection. Sync points are all the order there is between connections: one before the pages, one at each barrier behind
// pages, one at their end.

import type { FileId, Range } from '../../native/types.js'
import { formatBlock, formatMemSize, totalOf } from '../../protocol/migration/block-list.js'
import { concat, Writer } from '../../protocol/migration/bytes.js'
import { isSince } from '../../protocol/migration/machine.js'
import { formatHello } from '../../protocol/migration/multifd-hello.js'
import { formatPacket, packetCapacity } from '../../protocol/migration/multifd-packet.js'
import { RamFlag } from '../../protocol/migration/ram-flags.js'
import { formatRamEos, formatStreamHead } from '../../protocol/migration/ram-frame.js'
import { formatHead } from '../../protocol/migration/section.js'
import { IoError } from '../errors.js'
import type { BlockPlace, ImageHead, MemorySink, PageBatch } from './image.js'
import { placesInLine } from './null-sink.js'
import type { Pace } from './pace.js'
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
  readonly pace: Pace
  /** Records for all pages that are zero: for memory that is not fresh. */
  readonly zeroPages: boolean
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

  constructor(options: MultifdSinkOptions) {
    this.#options = options
    this.#lanes = options.channels.map((stream) => new Lane(options.slots, stream, options.name))
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

  async pages({ slot, pieces, length }: PageBatch): Promise<void> {
    const { slots, pace } = this.#options
    this.#unsynced = true
    try {
      await pace.pay(length)
      // The lane with the shortest line.
      const [first, ...others] = this.#lanes
      if (first === undefined) throw new Error('there are no channels')
      const lane = others.reduce((best, one) => (one.waiting < best.waiting ? one : best), first)
      await lane.sendPackets(slot, this.#packets(pieces))
    } finally {
      slots.give(slot)
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
    for (const lane of this.#lanes) lane.drop()
  }

  async abort(): Promise<void> {
    for (const { stream } of this.#lanes) this.#options.slots.engine.shutdownStream(stream, 'both')
    await this.#options.writer.drop()
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

  #packets(pieces: readonly Range[]): PacketBytes[] {
    const { head, places, sent } = this.#started()
    const { pageSize } = head
    const capacity = packetCapacity(pageSize)
    const packets: PacketBytes[] = []
    let slotOffset = 0
    for (const run of runsOf(pieces, places, head)) {
      const { block, ranges } = run
      sent.add(run)
      const pages = ranges.flatMap(({ offset, length }) =>
        Array.from({ length: length / pageSize }, (_, index) => offset + index * pageSize),
      )
      for (let from = 0; from < pages.length; from += capacity) {
        const normal = pages.slice(from, from + capacity)
        const dataLength = normal.length * pageSize
        const packet = {
          sync: false,
          method: 'none',
          zero: [],
          normal,
          dataLength,
          number: this.#number++,
        } as const
        const name = head.blocks[block]?.name ?? ''
        packets.push({ bytes: formatPacket({ ...packet, block: name }, pageSize), slotOffset, dataLength })
        slotOffset += dataLength
      }
    }
    return packets
  }

  #started(): Begun {
    if (this.#begun === undefined) throw new Error('the sink has not begun')
    return this.#begun
  }
}

interface PacketBytes {
  readonly bytes: Uint8Array
  /** The pages, one behind the other. */
  readonly slotOffset: number
  readonly dataLength: number
}

/** One channel: what goes out over it does so in turn. */
class Lane {
  readonly stream: FileId
  readonly #slots: Slots
  readonly #name: string
  #turn: Promise<void> = Promise.resolve()
  #heads: number | undefined
  /** Packets and other things in line. */
  waiting = 0

  constructor(slots: Slots, stream: FileId, name: string) {
    this.#slots = slots
    this.stream = stream
    this.#name = name
  }

  send(bytes: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#sendBytes(bytes))
  }

  /** The packets of one slot. */
  sendPackets(slot: number, packets: readonly PacketBytes[]): Promise<void> {
    return this.#inTurn(async () => {
      const { engine } = this.#slots
      this.#heads ??= await this.#slots.take('gather')
      const heads = this.#slots.bytes(this.#heads)
      let at = 0
      const sent: Promise<number>[] = []
      // All at once: the engine sends them in this order.
      for (const { bytes, slotOffset, dataLength } of packets) {
        heads.set(bytes, at)
        sent.push(engine.send(this.stream, bytes.length, this.#heads, at))
        sent.push(engine.send(this.stream, dataLength, slot, slotOffset))
        at += bytes.length
      }
      for (const result of await Promise.all(sent)) this.#checked(result)
    })
  }

  idle(): Promise<void> {
    return this.#turn
  }

  drop(): void {
    if (this.#heads !== undefined) this.#slots.give(this.#heads)
    this.#heads = undefined
  }

  async #sendBytes(bytes: Uint8Array): Promise<void> {
    this.#heads ??= await this.#slots.take('gather')
    this.#slots.bytes(this.#heads).set(bytes)
    this.#checked(await this.#slots.engine.send(this.stream, bytes.length, this.#heads, 0))
  }

  #checked(result: number): void {
    if (result < 0) throw new IoError(-result, 'write', this.#name)
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.waiting += 1
    const done = this.#turn.then(work).finally(() => {
      this.waiting -= 1
    })
    this.#turn = done
    done.catch(() => undefined)
    return done
  }
}
