// SPDX-License-Identifier: Apache-2.0
// Both engines for the tests of native/, and what those tests repeat.

import { createEngine } from '../../native/engine.js'
import type { EngineKind, EngineOptions, FileFacts, FileId, IoEngine } from '../../native/types.js'

export const KIB = 1024
export const MIB = 1024 * 1024

/** The engines, each with why it cannot be used here, or false: the value of a test's `skip`. */
export const kinds: readonly { readonly aio: EngineKind; readonly absent: string | false }[] = [
  { aio: 'threads', absent: false },
  { aio: 'io_uring', absent: ringAbsent() },
]

function ringAbsent(): string | false {
  try {
    void createEngine({ aio: 'io_uring' }).shutdown(0)
    return false
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** An engine that ends with the test. */
export function engineFor(t: Teardown, options: EngineOptions): IoEngine {
  const engine = createEngine(options)
  t.teardown(() => engine.shutdown(10_000))
  return engine
}

interface Teardown {
  teardown(end: () => unknown): void
}

export async function factsOf(engine: IoEngine, file: FileId): Promise<FileFacts> {
  const facts = await engine.stat(file)
  if (typeof facts === 'number') throw new Error(`stat: ${facts}`)
  return facts
}

/** Writes all of `bytes`, slot by slot. */
export async function put(engine: IoEngine, file: FileId, offset: number, bytes: Uint8Array): Promise<void> {
  const slot = takeSlot(engine)
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(bytes.length - done, engine.slotSize)
    engine.slotBytes(slot).set(bytes.subarray(done, done + length))
    const result = await engine.write(file, offset + done, length, slot, 0)
    if (result !== length) throw new Error(`write at ${offset + done}: ${result}`)
    done += length
  }
  engine.giveSlots([slot])
}

/** Up to `length` bytes from `offset` on, fewer at the end of the file. */
export async function get(
  engine: IoEngine,
  file: FileId,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const slot = takeSlot(engine)
  const bytes = new Uint8Array(length)
  let done = 0
  while (done < length) {
    const asked = Math.min(length - done, engine.slotSize)
    const result = await engine.read(file, offset + done, asked, slot, 0)
    if (result < 0) throw new Error(`read at ${offset + done}: ${result}`)
    bytes.set(engine.slotBytes(slot).subarray(0, result), done)
    done += result
    if (result < asked) break
  }
  engine.giveSlots([slot])
  return bytes.subarray(0, done)
}

export function takeSlot(engine: IoEngine): number {
  const [slot] = engine.takeSlots(1)
  if (slot === undefined) throw new Error('no free slot')
  return slot
}

/** Bytes that differ from their neighbours and are never zero. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let index = 0; index < length; index++) bytes[index] = ((index * 7 + (index >> 9) + seed) % 255) + 1
  return bytes
}

/** Positions of the first difference, or undefined: a short answer where deepEqual of megabytes would be a long one. */
export function difference(found: Uint8Array, wanted: Uint8Array): string | undefined {
  if (Buffer.compare(found, wanted) === 0) return undefined
  if (found.length !== wanted.length) return `${found.length} bytes instead of ${wanted.length}`
  const at = wanted.findIndex((byte, index) => found[index] !== byte)
  return `byte ${at} is ${found[at]} instead of ${wanted[at]}`
}

/** Mulberry32: small, and the same everywhere. */
export function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}
