// SPDX-License-Identifier: Apache-2.0
// The sections of an image as far as they can be told apart: those that come early, and the states of devices by the
// description at their end. Pure.

import { FormatError } from '../../../protocol/format-error.js'
import { findDescription } from '../../../protocol/migration/description.js'
import { walkTail } from '../../../protocol/migration/device-sections.js'
import { parseHead } from '../../../protocol/migration/section.js'

export interface SectionFacts {
  readonly name: string
  readonly instance: number
  /** undefined: it could not be walked to. */
  readonly version: number | undefined
  /** In the file, with head and footer; undefined as above. */
  readonly offset: number | undefined
  /** Bytes with head and footer; of one that could not be walked to those of its state. */
  readonly length: number
}

export interface Devices {
  readonly sections: readonly SectionFacts[]
  /** Why they are not where the description has them; undefined: they are. */
  readonly problem: string | undefined
}

/** In the order of the image; the parts of one that came in parts are one. */
export function earlySections(early: readonly Uint8Array[]): SectionFacts[] {
  const found = new Map<number, SectionFacts>()
  for (const bytes of early) {
    const head = parseHead(bytes)?.value
    if (head === undefined || !('id' in head)) continue
    const before = found.get(head.id)
    if (before !== undefined) found.set(head.id, { ...before, length: before.length + bytes.length })
    else if ('name' in head) {
      const { id, name, instance, version } = head
      found.set(id, { name, instance, version, offset: undefined, length: bytes.length })
    }
  }
  return [...found.values()]
}

/**
 * @param tail    from the boundary on
 * @param offset  of the boundary in the file
 * @param open    see walkTail()
 */
export function deviceSections(tail: Uint8Array, offset: number, open: ReadonlyMap<number, string>): Devices {
  try {
    const sections = walkTail(tail, open, 'padded').map(({ name, instance, offset: at, length }) => {
      const head = parseHead(tail.subarray(at))?.value
      const version = head !== undefined && 'version' in head ? head.version : undefined
      return { name, instance, version, offset: offset + at, length }
    })
    return { sections, problem: undefined }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
    const described = findDescription(tail, 'padded')?.description.sections ?? []
    const nowhere = { version: undefined, offset: undefined }
    return { sections: described.map((section) => ({ ...section, ...nowhere })), problem: error.message }
  }
}
