// SPDX-License-Identifier: Apache-2.0
// Cuts the power at every event of a recording, in every way that its unsafe changes may be lost, and has what is left
// judged. What was judged before, byte by byte, is not judged again.

import { createHash } from 'node:crypto'
import type { DiskBytes } from './disk-bytes.js'
import type { GuestEvent, GuestModel } from './guest-model.js'
import type { DiskEvent, Recording } from './recorded-disk.js'
import { type Cut, Replay } from './replay.js'

/** Content of the disk, or what is wrong with its image. */
export type Found = { readonly fault: string } | { readonly content: Buffer }

export interface Tried {
  /** Cuts, and how many of them left something that was not judged before. */
  readonly cuts: number
  readonly different: number
  /** undefined: all is well. */
  readonly fault: string | undefined
}

/** What may be found, from what has happened. */
export interface Expectation {
  step(event: DiskEvent | GuestEvent): void
  /** @returns what is wrong with the content, or undefined */
  fault(content: Buffer): string | undefined
}

export interface Exam {
  readonly recording: Recording
  /** As before the recording. */
  readonly initial: readonly DiskBytes[]
  readonly expected: Expectation
  /** @param number  how many were judged before */
  judge(disks: DiskBytes[], number: number): Promise<Found>
}

/** What a guest may find on its disk. */
export function ofGuest(model: GuestModel): Expectation {
  return {
    step: (event) => {
      if (isGuest(event)) model.step(event)
    },
    fault: (content) => model.fault(content),
  }
}

export async function everyCut({ recording, initial, expected, judge }: Exam): Promise<Tried> {
  const replay = new Replay(
    initial.map((disk) => disk.copy()),
    recording.below,
  )
  const known = new Map<string, Found>()
  const contents = new Map<string, Buffer>()
  const named = new Map<string, Found>()
  const find = async (cut: Cut): Promise<Found> => {
    const before = named.get(cut.name)
    if (before !== undefined) return before
    const disks = cut.disks()
    const key = digest(...disks.map(({ bytes }) => bytes))
    let found = known.get(key)
    if (found === undefined) {
      found = await judge(disks, known.size)
      if ('content' in found) {
        // Few contents, many images: each is kept once.
        const name = digest(found.content)
        const content = contents.get(name) ?? found.content
        contents.set(name, content)
        found = { content }
      }
      known.set(key, found)
    }
    named.set(cut.name, found)
    return found
  }
  let cuts = 0
  for (const [index, event] of recording.log.entries()) {
    expected.step(event)
    if (!isGuest(event)) replay.step(event)
    if (!matters(event)) continue
    for (const cut of replay.everyCut()) {
      cuts += 1
      const found = await find(cut)
      const fault = 'fault' in found ? found.fault : expected.fault(found.content)
      if (fault !== undefined) {
        const where = `cut ${cuts}, after event ${index} of ${recording.log.length}`
        return { cuts, different: known.size, fault: `${where}: ${fault}` }
      }
    }
  }
  return { cuts, different: known.size, fault: undefined }
}

/** After others the same may be left as before them, and no less is allowed. */
function matters({ kind }: DiskEvent | GuestEvent): boolean {
  return kind === 'started' || kind === 'flushed' || kind === 'guest flushed' || kind === 'guest done'
}

export function isGuest(event: DiskEvent | GuestEvent): event is GuestEvent {
  return event.kind.startsWith('guest')
}

function digest(...parts: readonly Uint8Array[]): string {
  const hash = createHash('sha1')
  for (const part of parts) hash.update(`${part.length} `).update(part)
  return hash.digest('base64')
}
