// SPDX-License-Identifier: Apache-2.0
// The naive reader for what is more than one stream: libvirt's save images, the connections of a multifd migration, and
// a stream without the memory that lies in a file of its own.

import assert from 'node:assert'
import { Cursor } from './cursor.js'
import { type Block, Replay } from './replay.js'

const PAGE = 4096

export interface SaveHeader {
  readonly magic: string
  readonly version: number
  readonly data_len: number
  readonly was_running: number
  readonly format: number
  readonly cookie_offset: number
  readonly xml: string
  readonly cookie: string
}

/** Little-endian images, raw (0) and sparse (6). */
export function replaySaveImage(bytes: Buffer): { header: SaveHeader; replay: Replay } {
  const [version = 0, data_len = 0, was_running = 0, format = 0, cookie_offset = 0] = [
    16, 20, 24, 28, 32,
  ].map((at) => bytes.readUInt32LE(at))
  assert.equal(version, 2)
  assert(format === 0 || format === 6)
  const area = bytes.subarray(92, 92 + data_len)
  const text = (at: number) => area.subarray(at, area.indexOf(0, at)).toString()
  const header: SaveHeader = {
    magic: bytes.subarray(0, 16).toString(),
    version,
    data_len,
    was_running,
    format,
    cookie_offset,
    xml: text(0),
    cookie: cookie_offset === 0 ? '' : text(cookie_offset),
  }
  return { header, replay: new Replay(bytes, 92 + data_len) }
}

/** `normal` and `zero` are pages in packets. */
export interface PacketTotals {
  normal: number
  zero: number
  packets: number
  sync_packets: number
}

/** @param channels  in any order */
export function replayMultifd(main: Buffer, channels: readonly Buffer[]) {
  const totals: PacketTotals = { normal: 0, zero: 0, packets: 0, sync_packets: 0 }
  const cursors = channels.map((bytes) => new Cursor(bytes))
  const ids = cursors.map(hello)
  assert.deepEqual(
    ids.sort((one, other) => one - other),
    channels.map((_, index) => index),
  )
  const sync = (blocks: readonly Block[]) => {
    for (const cursor of cursors) while (!packet(cursor, blocks, totals));
  }
  const replay = new Replay(main, 0, { sync })
  for (const cursor of cursors) assert.equal(cursor.at, cursor.bytes.length, 'nothing after the last sync')
  return { replay, totals }
}

function hello(cursor: Cursor): number {
  assert.equal(cursor.u32(), 0x11223344)
  assert.equal(cursor.u32(), 1)
  cursor.take(16)
  const id = cursor.u8()
  cursor.take(39)
  return id
}

/** One packet, without compression; returns whether a sync point of its channel stands behind it. */
function packet(cursor: Cursor, blocks: readonly Block[], totals: PacketTotals): boolean {
  const head = new Cursor(cursor.take(320 + 8 * 128))
  assert.equal(head.u32(), 0x11223344)
  assert.equal(head.u32(), 1)
  const flags = head.u32()
  assert(flags <= 1, 'no compression')
  head.at = 16
  const normal = head.u32()
  head.at = 32
  const zero = head.u32()
  const name = head.bytes.subarray(64, 320).toString().replace(/\0.*$/s, '')
  head.at = 320
  const block = blocks.find((one) => one.name === name)
  for (let index = 0; index < normal + zero; index++) {
    const offset = head.u64()
    assert(block && offset + PAGE <= block.usedLength, `page ${offset} of ${name}`)
    if (index < normal) block.memory.set(cursor.take(PAGE), offset)
    else block.memory.fill(0, offset, offset + PAGE)
  }
  totals.normal += normal
  totals.zero += zero
  totals.packets += 1
  totals.sync_packets += flags
  return flags === 1
}

/** @param ram  the whole memory of that block, which the stream left out */
export function replayIgnoreShared(stream: Buffer, blockName: string, ram: Buffer): Replay {
  const replay = new Replay(stream)
  const { memory } = replay.block(blockName)
  assert.equal(memory.length, ram.length)
  assert(memory.every((byte) => byte === 0))
  memory.set(ram)
  return replay
}
