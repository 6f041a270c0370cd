// SPDX-License-Identifier: Apache-2.0
// Migration streams made for a test: head and tail are those of a recording, blocks and pages the test's own.

import { formatRamStart, type RamBlock } from '../../../protocol/migration/block-list.js'
import { concat, Writer } from '../../../protocol/migration/bytes.js'
import { parseConfiguration } from '../../../protocol/migration/configuration.js'
import { formatHello } from '../../../protocol/migration/multifd-hello.js'
import { formatPacket } from '../../../protocol/migration/multifd-packet.js'
import { PREAMBLE_LENGTH } from '../../../protocol/migration/preamble.js'
import { RamFlag } from '../../../protocol/migration/ram-flags.js'
import { formatEmptyRam, formatRamEos, formatStreamHead } from '../../../protocol/migration/ram-frame.js'
import { formatFooter, formatHead } from '../../../protocol/migration/section.js'
import { streamNamed, unpack } from '../../helpers/migration/fixtures.js'

export const PAGE = 4096
const RECORDING = 'q10-pc-q35-10.0-live.stream'
const RAM_ID = 2

/** A page, or `undefined` for one that is zero. */
export interface SentPage {
  /** In the block, bytes. */
  readonly offset: number
  readonly data: Uint8Array | undefined
}

/** @param multifd  sync points as machine types since 8.1 have them */
export function headOf(blocks: readonly RamBlock[], multifd = false): Uint8Array {
  const bytes = unpack(RECORDING)
  const parsed = parseConfiguration(bytes.subarray(PREAMBLE_LENGTH))
  if (parsed === undefined) throw new Error('the recording has a configuration')
  return concat([
    formatStreamHead(parsed.value, RAM_ID),
    formatRamStart(blocks, multifd),
    formatFooter(RAM_ID),
  ])
}

/** One section with these pages, in this order. */
export function partOf(block: string, pages: readonly SentPage[]): Uint8Array {
  const parts: Uint8Array[] = [formatHead({ kind: 'part', id: RAM_ID })]
  for (const { offset, data } of pages) {
    const flag = data === undefined ? RamFlag.zero : RamFlag.page
    const word = new Writer().u64(offset + flag).name(block)
    parts.push(word.finish(), data ?? Uint8Array.of(0))
  }
  return concat([...parts, formatRamEos(RAM_ID)])
}

/** A section that marks a sync point of multifd, and has nothing else. */
export function syncPart(): Uint8Array {
  const mark = new Writer().u64(RamFlag.multifdFlush).finish()
  return concat([formatHead({ kind: 'part', id: RAM_ID }), mark, formatRamEos(RAM_ID)])
}

/** END of RAM and the states of devices. */
export function tailBytes(): Uint8Array {
  return concat([formatEmptyRam('end', RAM_ID), statesBytes()])
}

/** What follows END of RAM. */
export function statesBytes(): Uint8Array {
  return unpack(RECORDING).subarray(streamNamed(RECORDING).tail_offset)
}

/** A channel of multifd: its hello, a sync point, its pages, another sync point. @param early  pages before the first one */
export function channelOf(
  channel: number,
  block: string,
  pages: readonly SentPage[],
  early: readonly SentPage[] = [],
): Uint8Array {
  const empty = { method: 'none', block: '', normal: [], zero: [], dataLength: 0, number: 0 } as const
  const sync = formatPacket({ ...empty, sync: true }, PAGE)
  const packet = ({ offset, data }: SentPage) =>
    data === undefined
      ? [formatPacket({ ...empty, sync: false, block, zero: [offset] }, PAGE)]
      : [formatPacket({ ...empty, sync: false, block, normal: [offset], dataLength: PAGE }, PAGE), data]

  return concat([
    formatHello({ uuid: new Uint8Array(16), channel }),
    ...early.flatMap(packet),
    sync,
    ...pages.flatMap(packet),
    sync,
  ])
}
