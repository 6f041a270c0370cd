// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- scan`: what finding the pages of a stream costs by itself: a stream that lies in slots is scanned again and
// again, its pages gathered, or only looked at, or given checksums.

import { randomFillSync } from 'node:crypto'
import { createEngine } from '../../native/engine.js'
import { createPageScanner } from '../../native/page-scanner.js'
import type { ScanMode } from '../../native/stream-types.js'
import type { IoEngine } from '../../native/types.js'
import type { BenchOptions } from './options.js'
import { median, print, round, table, type Verdict } from './report.js'

const MiB = 2 ** 20
const PAGE = 4096
const [ZERO, RECORD, EOS, CONTINUE] = [0x02, 0x08, 0x10, 0x20] as const
/** Slots that hold the stream: more than a processor's caches. */
const INPUTS = 48
/** How long one figure is measured. */
const LEAST_MS = 500

interface Stream {
  readonly bytes: Buffer
  /** Of memory that it speaks of, bytes. */
  readonly memory: number
}

export async function scan(options: BenchOptions): Promise<Verdict[]> {
  print('\n## Scanning a stream that is there\n')
  const engine = createEngine({ aio: 'threads', slotSize: MiB, maxSlots: INPUTS + 1 })
  try {
    const data = streamOf(INPUTS * MiB, false)
    const zeroes = streamOf(MiB, true)
    const slots = engine.takeSlots(INPUTS + 1)
    const rows = [
      ['gathered', data, 'gather', false],
      ['gathered, with checksums', data, 'gather', true],
      ['looked at', data, 'check', false],
      ['zero records', zeroes, 'gather', false],
    ] as const
    const cells = rows.map(([name, stream, mode, digests]) => {
      fill(engine, slots, stream)
      const rates = Array.from({ length: options.rounds }, () =>
        measure(engine, slots, stream, mode, digests),
      )
      return [name, rates.map((rate) => round(rate / 1e9)).join(' '), round(median(rates) / 1e9)]
    })
    print(table(['pages', 'GB/s of memory', 'median'], cells))
  } finally {
    await engine.shutdown(1000)
  }
  return []
}

/** Records of as many pages as fit, with the end of a section behind them. */
function streamOf(size: number, zero: boolean): Stream {
  const name = Buffer.from('pc.ram')
  const length = zero ? 9 : 8 + PAGE
  const pages = Math.floor((size - 2 * (9 + name.length)) / length)
  const bytes = Buffer.alloc(size)
  if (!zero) randomFillSync(bytes)
  let at = 0
  for (let page = 0; page < pages; page++) {
    const flag = (zero ? ZERO : RECORD) + (page === 0 ? 0 : CONTINUE)
    at = bytes.writeBigUInt64BE(BigInt(page * PAGE + flag), at)
    if (page === 0) {
      at = bytes.writeUInt8(name.length, at)
      at += name.copy(bytes, at)
    }
    at += length - 8
    if (zero) bytes[at - 1] = 0
  }
  at = bytes.writeBigUInt64BE(BigInt(EOS), at)
  return { bytes: bytes.subarray(0, at), memory: pages * PAGE }
}

function fill(engine: IoEngine, slots: readonly number[], { bytes }: Stream): void {
  for (let at = 0; at < bytes.length; at += MiB)
    engine.slotBytes(slots[at / MiB] ?? 0).set(bytes.subarray(at, at + MiB))
}

/** @returns bytes of memory a second */
function measure(
  engine: IoEngine,
  slots: readonly number[],
  { bytes, memory }: Stream,
  mode: ScanMode,
  digests: boolean,
): number {
  const block = {
    ...{ name: 'pc.ram', length: memory, place: 0, bitmap: new Uint8Array(memory / PAGE / 8 + 1) },
    ...(digests && { digests: new Uint32Array(memory / PAGE) }),
  }
  const target = slots[INPUTS] ?? 0
  const begun = performance.now()
  let scanned = 0
  for (let ms = 0; ms < LEAST_MS; ms = performance.now() - begun) {
    const scanner = createPageScanner(engine, PAGE, [block], mode)
    if (mode === 'gather') scanner.gatherInto(target)
    for (let at = 0; at < bytes.length; ) {
      const within = at % MiB
      const length = Math.min(MiB - within, bytes.length - at)
      const { taken, stop } = scanner.scan(slots[(at - within) / MiB] ?? 0, within, length)
      at += taken
      if (stop === 'bad') throw new Error(scanner.problem())
      if (stop !== 'full') continue
      scanner.take()
      scanner.gatherInto(target)
    }
    if (mode === 'gather') scanner.take()
    scanned += memory
  }
  return scanned / ((performance.now() - begun) / 1000)
}
