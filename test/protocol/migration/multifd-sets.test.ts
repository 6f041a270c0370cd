// SPDX-License-Identifier: Apache-2.0
// The recorded sets of multifd connections, put together with the codecs by their sync points, as a receiver does it.

import t from 'tap'
import { HELLO_LENGTH } from '../../../protocol/migration/multifd-hello.js'
import {
  checkPacket,
  isSyncPoint,
  type Packet,
  parsePacket,
} from '../../../protocol/migration/multifd-packet.js'
import type { RamRecord } from '../../../protocol/migration/page-record.js'
import { CodecWalk } from '../../helpers/migration/codec-walk.js'
import { channelsOf, streams, unpack } from '../../helpers/migration/fixtures.js'
import { replayMultifd } from '../../helpers/migration/replay-sets.js'

const PAGE = 4096

class Channel {
  readonly bytes: Uint8Array
  at = HELLO_LENGTH

  constructor(file: string) {
    this.bytes = unpack(file)
  }

  /** Everything up to the next sync point of this channel. */
  readTo(memory: ReadonlyMap<string, Uint8Array>): void {
    for (;;) {
      const head = parsePacket(this.bytes.subarray(this.at), PAGE, this.at)
      if (head === undefined) throw new Error(`no packet at ${this.at}`)
      this.at += head.length
      this.#apply(head.value, memory)
      this.at += head.value.dataLength
      if (head.value.sync) return
    }
  }

  #apply(packet: Packet, memory: ReadonlyMap<string, Uint8Array>): void {
    checkPacket(packet, new Map([...memory].map(([name, { length }]) => [name, length])))
    const block = memory.get(packet.block)
    for (const [index, offset] of packet.normal.entries()) {
      const from = this.at + index * PAGE
      block?.set(this.bytes.subarray(from, from + PAGE), offset)
    }
    for (const offset of packet.zero) block?.fill(0, offset, offset + PAGE)
  }
}

for (const expected of streams.filter(({ kind }) => kind === 'multifd-main')) {
  t.test(`${expected.file}: put together by sync points it has the memory of the naive reader`, (t) => {
    const channels = channelsOf(expected).map((file) => new Channel(file))
    let syncPoints = 0
    const record = (one: RamRecord, walk: CodecWalk) => {
      if (!isSyncPoint(one, walk.syncRecord)) return
      syncPoints += 1
      for (const channel of channels) channel.readTo(walk.memory)
    }
    const main = unpack(expected.file)
    const { memory } = new CodecWalk(main, 0, { record })
    t.equal(syncPoints, expected.sync_points_on_main)
    for (const { at, bytes } of channels) t.equal(at, bytes.length, 'nothing is left in the channel')
    const { replay } = replayMultifd(main, channelsOf(expected).map(unpack))
    for (const block of replay.blocks)
      t.ok(block.memory.equals(memory.get(block.name) ?? new Uint8Array()), block.name)
    t.end()
  })
}
