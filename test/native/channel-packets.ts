// SPDX-License-Identifier: Apache-2.0
// Packets of multifd channels for the tests of their scanner, and the model that reads them.

import { spawnSync } from 'node:child_process'
import { constants, createDeflate } from 'node:zlib'
import type { Below, BlockSpec, Memory, Model } from './page-streams.js'
import { randomPage } from './page-streams.js'

export const PacketFlag = { sync: 0x01, zlib: 0x02, zstd: 0x04, qpl: 0x08, deviceState: 0x40 } as const

export interface Packet {
  readonly flags: number
  readonly name: string
  readonly normal: readonly number[]
  readonly pages: readonly Uint8Array[]
  readonly zero: readonly number[]
  readonly number: number
  /** What stands where the size of the data belongs, in packets without pages of data. */
  readonly staleSize?: number
}

export const HEAD_BYTES = (pageSize: number): number => 320 + 8 * ((512 * 1024) / pageSize)

/** @param data  as it goes out; nothing where the packet has no pages of data */
export function packetBytes(packet: Packet, data: Uint8Array, pageSize: number): Buffer {
  const head = Buffer.alloc(HEAD_BYTES(pageSize))
  head.writeUInt32BE(0x11223344, 0)
  head.writeUInt32BE(1, 4)
  head.writeUInt32BE(packet.flags, 8)
  head.writeUInt32BE((512 * 1024) / pageSize, 12)
  head.writeUInt32BE(packet.normal.length, 16)
  head.writeUInt32BE(packet.normal.length > 0 ? data.length : (packet.staleSize ?? 0), 20)
  head.writeBigUInt64BE(BigInt(packet.number), 24)
  head.writeUInt32BE(packet.zero.length, 32)
  head.write(packet.name, 64)
  for (const [index, offset] of [...packet.normal, ...packet.zero].entries()) {
    head.writeBigUInt64BE(BigInt(offset), 320 + 8 * index)
  }
  return Buffer.concat([head, packet.normal.length > 0 ? data : Buffer.alloc(0)])
}

/** What a channel may carry: walks upwards in packets whose pages are in any order, zero pages, syncs with and without pages. */
export function randomPackets(
  below: Below,
  specs: readonly BlockSpec[],
  pageSize: number,
  method: number,
): Packet[] {
  const packets: Packet[] = []
  const most = (512 * 1024) / pageSize
  const add = (packet: Omit<Packet, 'number'>) => packets.push({ ...packet, number: packets.length })
  for (let walk = 0; walk <= below(3); walk++) {
    for (const { name, pages } of specs) {
      let rest = Array.from({ length: pages }, (_, index) => index * pageSize).filter(() => below(4) > 0)
      while (rest.length > 0) {
        const taken = rest.slice(0, 1 + below(most))
        rest = rest.slice(taken.length)
        const zero = taken.filter(() => below(3) === 0)
        const normal = taken.filter((offset) => !zero.includes(offset))
        if (below(2) === 0) normal.reverse()
        const sync = below(6) === 0 ? PacketFlag.sync : 0
        const flags = sync | (normal.length > 0 ? method : 0)
        add({ flags, name, normal, zero, pages: normal.map(() => randomPage(below, pageSize)) })
      }
    }
    add({ flags: PacketFlag.sync, name: '', normal: [], zero: [], pages: [], staleSize: below(2) * 4096 })
  }
  return packets
}

export function replayPackets(packets: readonly Packet[], memory: Memory, model: Model): void {
  for (const { name, normal, zero, pages, flags } of packets) {
    const block = memory.blocks.findIndex((each) => each.name === name)
    for (const offset of zero) model.zero(block, offset)
    if (normal.length > 0) model.order(block, Math.min(...normal), Math.max(...normal))
    for (const [index, offset] of normal.entries())
      model.page(block, offset, pages[index] ?? new Uint8Array(0))
    if ((flags & PacketFlag.sync) !== 0) model.seen.push('sync')
  }
}

/** The data of each packet as parts of one endless stream. */
export async function deflated(packets: readonly Packet[]): Promise<Uint8Array[]> {
  const parts: Uint8Array[] = []
  const deflate = createDeflate({ level: 1 })
  let part: Buffer[] = []
  deflate.on('data', (bytes: Buffer) => part.push(bytes))
  for (const { pages } of packets) {
    part = []
    if (pages.length > 0) {
      deflate.write(Buffer.concat(pages))
      await new Promise<void>((resolve) => deflate.flush(constants.Z_SYNC_FLUSH, resolve))
    }
    parts.push(Buffer.concat(part))
  }
  deflate.destroy()
  return parts
}

/** The same with zstd, which Node does not have: by the library itself. Undefined where it or python3 is missing. */
export function zstandard(packets: readonly Packet[]): Uint8Array[] | undefined {
  const script = `
import ctypes, struct, sys
z = ctypes.CDLL("libzstd.so.1")
class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t)]
z.ZSTD_createCCtx.restype = ctypes.c_void_p
z.ZSTD_compressStream2.restype = ctypes.c_size_t
z.ZSTD_compressStream2.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
context = z.ZSTD_createCCtx()
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while length := read(4):
    data = read(struct.unpack(">I", length)[0])
    room = ctypes.create_string_buffer(len(data) * 2 + 4096)
    given = ctypes.create_string_buffer(data, len(data) + 1)
    source = Buffer(ctypes.addressof(given), len(data), 0)
    target = Buffer(ctypes.addressof(room), len(room), 0)
    if data:
        while z.ZSTD_compressStream2(context, ctypes.byref(target), ctypes.byref(source), 1): pass
    write(struct.pack(">I", target.position) + room.raw[:target.position])
`
  const lengthOf = (length: number): Buffer => {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(length)
    return bytes
  }
  const input = Buffer.concat(
    packets.flatMap(({ pages }) => {
      const data = Buffer.concat(pages)
      return [lengthOf(data.length), data]
    }),
  )
  // What is preloaded (a sanitizer) is for us.
  const env = { ...process.env, LD_PRELOAD: '' }
  const { status, stdout } = spawnSync('python3', ['-c', script], { input, env, maxBuffer: 2 ** 28 })
  if (status !== 0) return undefined
  const parts: Uint8Array[] = []
  for (let at = 0; at < stdout.length; ) {
    const length = stdout.readUInt32BE(at)
    parts.push(stdout.subarray(at + 4, at + 4 + length))
    at += 4 + length
  }
  return parts
}
