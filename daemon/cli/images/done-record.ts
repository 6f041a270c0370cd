// SPDX-License-Identifier: Apache-2.0
// What of a transfer is done, in a file beside it, so that one that was cut off can go on. Used by upload and download.
// Rule: a range stands in the file only when it is durable where it was written, and the file is of the same transfer: of
// the same source as it was, to the same target.
// First line: what is transferred, JSON. Then a line `START LENGTH` for each range; a line that is cut off does not count.

import { type FileHandle, open, readFile, unlink } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Part } from './transfer.js'

/** What is done is made durable and recorded whenever so much more of it is, bytes and ranges. */
const STEP_BYTES = 64 * 2 ** 20
const STEP_RANGES = 1024
const VERSION = 1

interface Range {
  readonly start: number
  readonly length: number
}

/** Strings and numbers that are the same only when it is the same transfer. */
export type About = Readonly<Record<string, string | number>>

export class DoneRecord {
  readonly path: string
  readonly #file: FileHandle
  /** Of an earlier run: ascending, apart. */
  readonly #before: readonly Range[]
  readonly #durable: () => Promise<void>
  #fresh: Range[] = []
  #freshBytes = 0
  /** Something stands in the file. */
  #kept: boolean
  #saving = false
  #lost = false

  private constructor(
    path: string,
    file: FileHandle,
    before: readonly Range[],
    durable: () => Promise<void>,
  ) {
    this.path = path
    this.#file = file
    this.#before = before
    this.#kept = before.length > 0
    this.#durable = durable
  }

  /**
   * @param before   what an earlier run has done, as rangesIn() tells; empty: it begins anew
   * @param durable  makes durable what is done; what it fails for is not recorded
   */
  static async open(
    path: string,
    about: About,
    before: readonly Range[],
    durable: () => Promise<void>,
  ): Promise<DoneRecord> {
    const file = await open(path, 'w')
    const record = new DoneRecord(path, file, before, durable)
    await file.appendFile(`${JSON.stringify({ version: VERSION, ...about })}\n${before.map(lineOf).join('')}`)
    return record
  }

  /** It goes on where an earlier run was cut off. */
  get resumed(): boolean {
    return this.#before.length > 0
  }

  /** Bytes that an earlier run has done. */
  get bytesBefore(): number {
    return this.#before.reduce((sum, { length }) => sum + length, 0)
  }

  /** A later run can go on from it. */
  get worth(): boolean {
    return this.#kept
  }

  /** What of the parts, which are ascending, an earlier run has not done. */
  missing(parts: Iterable<Part>): Iterable<Part> {
    return without(parts, this.#before)
  }

  /** Now and then this makes durable what is done, while others go on. @throws what that throws */
  async did({ start, length, zero }: Part): Promise<void> {
    this.#fresh.push({ start, length })
    if (!zero) this.#freshBytes += length
    if (this.#freshBytes < STEP_BYTES && this.#fresh.length < STEP_RANGES) return
    if (!this.#saving) await this.save()
  }

  async save(): Promise<void> {
    // What could not be made durable once is not asked for again and believed.
    if (this.#lost) return
    const done = this.#fresh
    this.#fresh = []
    this.#freshBytes = 0
    if (done.length === 0) return
    this.#saving = true
    this.#lost = true
    try {
      await this.#durable()
      this.#lost = false
      await this.#file.appendFile(done.map(lineOf).join(''))
      this.#kept = true
    } finally {
      this.#saving = false
    }
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

/** What an earlier run of the same transfer has done, ascending, neighbours as one. Empty: nothing, or it was another. */
export async function rangesIn(path: string, about: About): Promise<readonly Range[]> {
  const text = await readFile(path, 'utf8').catch(() => '')
  const [head = '', ...lines] = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
  if (!isDeepStrictEqual(parsed(head), { version: VERSION, ...about })) return []
  const ranges = lines.flatMap((line) => {
    const [, start, length] = /^(\d{1,16}) (\d{1,16})$/.exec(line) ?? []
    return start === undefined ? [] : { start: Number(start), length: Number(length) }
  })
  return joined(ranges.sort((a, b) => a.start - b.start))
}

export async function removeRecord(path: string): Promise<void> {
  await unlink(path).catch(() => undefined) // there may be none
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function joined(ranges: readonly Range[]): Range[] {
  const all: Range[] = []
  for (const range of ranges) {
    const last = all.at(-1)
    if (last === undefined || range.start > last.start + last.length) all.push(range)
    else {
      const end = Math.max(last.start + last.length, range.start + range.length)
      all[all.length - 1] = { start: last.start, length: end - last.start }
    }
  }
  return all
}

/** Parts without ranges, both ascending and apart. */
function* without(parts: Iterable<Part>, ranges: readonly Range[]): Generator<Part> {
  let index = 0
  for (const { start, length, zero } of parts) {
    const end = start + length
    for (let at = start; at < end; ) {
      const range = ranges[index] ?? { start: end, length: 0 }
      const from = Math.min(range.start, end)
      if (from > at) yield { start: at, length: from - at, zero }
      at = Math.max(at, range.start + range.length)
      // One that reaches to the end may reach into the next part.
      if (at < end) index++
    }
  }
}

function lineOf({ start, length }: Range): string {
  return `${start} ${length}\n`
}
