// SPDX-License-Identifier: Apache-2.0
// What a mapped-ram file has between its last pages and the device states: the end of START of RAM, sections and commands
// that came early, and an END of RAM that has to be there, for QEMU writes the bitmaps with it.

import { FormatError } from '../format-error.js'
import { type Parsed, parsePrefix, type Reader } from './bytes.js'
import { hex } from './error-text.js'
import type { Outline, Step } from './outline.js'
import { RamFlag, readRamWord } from './ram-flags.js'
import { refusals } from './refusals.js'

export interface MappedTail {
  /** Sections and commands to be kept in front of END of RAM when the file is converted, in their order. */
  readonly early: readonly Uint8Array[]
  /** Sections that have yet to end behind the boundary, by id. */
  readonly open: ReadonlyMap<number, string>
}

/**
 * @param bytes    of the file from tailOffset of its layout on
 * @param outline  where the block list was read; is left as it is
 * @returns up to the boundary
 * @throws FormatError also for everything that cannot be converted
 */
export function parseMappedTail(
  bytes: Uint8Array,
  outline: Outline,
  pageSize: number,
  origin = 0,
): Parsed<MappedTail> | undefined {
  const walk = outline.copy()
  const early: Uint8Array[] = []
  let at = 0
  let step: Step = { kind: 'ram', part: 'start', id: 0 }
  while (step.kind !== 'boundary') {
    if (step.kind === 'ram') {
      const body = parsePrefix(bytes.subarray(at), origin + at, (reader) => readEmptyBody(reader, pageSize))
      if (body === undefined) return undefined
      at += body.length
      const footer = walk.ramFooter(bytes.subarray(at), origin + at)
      if (footer === undefined) return undefined
      at += footer.length
    } else {
      const kept = keptBytes(step)
      if (kept !== undefined) early.push(kept)
    }
    const next = walk.next(bytes.subarray(at), origin + at)
    if (next === undefined) return undefined
    at += next.length
    step = next.value
  }
  if (!step.ramEnded) throw new FormatError(refusals.unfinishedMapped)
  return { value: { early, open: walk.open }, length: at }
}

/** Sync points of multifd leave nothing in such a file, but would mean nothing either. */
function readEmptyBody(reader: Reader, pageSize: number): void {
  for (;;) {
    const { offset, flags } = readRamWord(reader, pageSize, 'record of RAM in a mapped-ram file')
    if (offset === 0 && flags === RamFlag.eos) return
    if (offset !== 0 || flags !== RamFlag.multifdFlush)
      throw reader.wrong(
        'record of RAM in a mapped-ram file',
        hex(offset + flags),
        `${hex(RamFlag.eos)}, its end`,
      )
  }
}

/** undefined: to be left out. */
function keptBytes(step: Exclude<Step, { kind: 'ram' | 'boundary' }>): Uint8Array | undefined {
  switch (step.kind) {
    case 'section':
      return step.empty ? undefined : step.bytes
    case 'command':
      if (step.fate.kind === 'refuse') throw new FormatError(step.fate.reason)
      return step.fate.kind === 'keep' ? step.bytes : undefined
    case 'refuse':
      throw new FormatError(step.reason)
    default:
      return step satisfies never
  }
}
