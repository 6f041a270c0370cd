// SPDX-License-Identifier: Apache-2.0
// What reads the pages of a stream or a channel for a sink: a scanner over the sink's blocks, and what gathers for it.

import { createChannelScanner, createPageScanner } from '../../native/page-scanner.js'
import type { PageScanner, ScannedBlock } from '../../native/stream-types.js'
import { applyDelta } from '../../protocol/migration/xbzrle.js'
import type { PageCounts, TransferContext } from './context.js'
import { DeltaPages } from './delta-pages.js'
import type { BlockPlace, ImageHead, MemorySink } from './image.js'
import type { Channel } from './multifd-source.js'
import type { OpenedSink } from './open-sink.js'
import type { PacketInput } from './packet-input.js'
import { PageGatherer } from './page-gatherer.js'
import type { PageReader } from './stream-source.js'

/** Of one connection or file. */
export function pageReader(
  head: ImageHead,
  places: readonly BlockPlace[],
  { sink, tap, readBack, blind = false }: OpenedSink,
  { slots, tally }: TransferContext,
): PageReader {
  const checks = blind || tap !== undefined
  const { pageSize } = head
  const mode = checks ? 'check' : 'gather'
  const scanner = createPageScanner(slots.engine, pageSize, scanned(head, places), mode)
  tally.count(() => countsOf(scanner))
  const pages = new PageGatherer(scanner, slots, sink)
  const deltas = { scanner, pages, slots, sink, places, pageSize }
  return {
    scanner,
    pages: checks ? NOTHING_GATHERED : pages,
    delta: checks ? deltaCheck(scanner, pageSize, sink) : readBack && new DeltaPages({ ...deltas, readBack }),
    sync: undefined,
    seen: (block) => scanner.seen(block),
    finish: async () => {
      await pages.hand()
      pages.drop()
    },
  }
}

/** Of one channel of multifd. */
export function channelReader(
  input: PacketInput,
  head: ImageHead,
  places: readonly BlockPlace[],
  { sink, blind = false }: OpenedSink,
  { slots, tally }: TransferContext,
): Channel {
  const mode = blind ? 'check' : 'gather'
  const scanner = createChannelScanner(slots.engine, head.pageSize, scanned(head, places), mode)
  tally.count(() => countsOf(scanner))
  if (blind) return { input, scanner, pages: { ...NOTHING_GATHERED, keep: () => false } }
  const gatherer = new PageGatherer(scanner, slots, sink)
  const pages = {
    ready: () => gatherer.ready(),
    hand: () => gatherer.hand(),
    drop: () => gatherer.drop(),
    keep: async (slot: number) => {
      if (!scanner.inPlace()) return false
      await gatherer.gatherIn(slot)
      return true
    },
  }
  return { input, scanner, pages }
}

/** Of a stream that is stored as it is: a delta must be one, whatever the page was. */
function deltaCheck(scanner: PageScanner, pageSize: number, sink: MemorySink): Pick<DeltaPages, 'apply'> {
  const page = new Uint8Array(pageSize)
  return {
    apply: async () => {
      applyDelta(page, scanner.delta().bytes)
      sink.undigested?.('pages came as changes to what was sent before (XBZRLE), and are stored as such')
    },
  }
}

/** Of a stream that is stored as it is, or nowhere. */
const NOTHING_GATHERED = {
  ready: async () => {},
  hand: async () => {},
  settle: async () => {},
  drop: () => {},
}

function scanned({ blocks }: ImageHead, places: readonly BlockPlace[]): ScannedBlock[] {
  return blocks.map(({ name, length }, index) => {
    const found = places[index]
    if (found === undefined) throw new RangeError(`block ${index}`)
    const { place, bitmap, digests } = found
    return { name, length, place, bitmap, ...(digests !== undefined && { digests }) }
  })
}

function countsOf(scanner: PageScanner): PageCounts {
  const { normal, delta, zero, foundZero, walks } = scanner.counts()
  return { normal: normal + delta - foundZero, zero: zero + foundZero, walks }
}
