// SPDX-License-Identifier: Apache-2.0
// Walks what stands between the configuration section and the states of devices, section by section, and says what each
// is. Whoever saves or converts a stream calls it for everything but the bodies of RAM; those begin where a step `ram`
// ends and are over with their EOS, then ramFooter() is called.
// Rule: a step is made only when all of its bytes are there; until then nothing changes.
//
//   START ram ─▶ body ─▶ footer    PART, END ram ─▶ body ─▶ footer    command, early section: whole    boundary: no bytes
//
// Where the boundary is: behind the footer of END of RAM; or in front of the first device or EOF where there is no END
// (background-snapshot). From there on a stream is carried unread.

import { FormatError } from '../format-error.js'
import { type Parsed, parsePrefix, type Reader } from './bytes.js'
import { type Command, type CommandFate, commandFate } from './command.js'
import { readDirtyBitmapBody } from './dirty-bitmap.js'
import { unexpected } from './error-text.js'
import { type FurtherHead, type NamedHead, readFooter, readHead, titleOf } from './section.js'
import { sectionRole } from './section-role.js'
import { readVirtioMemEarly } from './virtio-mem.js'

/** `bytes` are views of what was parsed, all of the section or command. */
export type Step =
  /** The body follows. */
  | { readonly kind: 'ram'; readonly part: 'start' | 'part' | 'end'; readonly id: number }
  | {
      readonly kind: 'command'
      readonly command: Command
      readonly fate: CommandFate
      readonly bytes: Uint8Array
    }
  /** To be kept in front of END of RAM; one that is empty may be left out. */
  | { readonly kind: 'section'; readonly name: string; readonly empty: boolean; readonly bytes: Uint8Array }
  /** From here on only storing is possible. No bytes are taken. */
  | { readonly kind: 'refuse'; readonly reason: string }
  /** No bytes are taken. */
  | { readonly kind: 'boundary'; readonly ramEnded: boolean }

/** What is remembered once a step was made. */
type Change = () => void
const nothing: Change = () => undefined

export class Outline {
  /** Sections that began and did not end, by id. */
  readonly #open = new Map<number, 'ram' | 'dirty-bitmap'>()
  #ramId: number | undefined
  #ramEnded = false
  /** A body of RAM is being read. */
  #inRam: 'start' | 'part' | 'end' | undefined

  /** Sections that have yet to end in the tail, by id. Complete at the boundary. */
  get open(): ReadonlyMap<number, string> {
    return this.#open
  }

  /** Another one at the same place: for who may have to read from there again. */
  copy(): Outline {
    const copy = new Outline()
    for (const [id, name] of this.#open) copy.#open.set(id, name)
    copy.#ramId = this.#ramId
    copy.#ramEnded = this.#ramEnded
    copy.#inRam = this.#inRam
    return copy
  }

  /**
   * The next step; not while a body of RAM is read.
   * @param bytes  from the end of the step before, or of the configuration section
   * @throws FormatError
   */
  next(bytes: Uint8Array, origin = 0): Parsed<Step> | undefined {
    if (this.#inRam !== undefined) throw new Error('a body of RAM is being read')
    if (this.#ramEnded) return { value: { kind: 'boundary', ramEnded: true }, length: 0 }
    const parsed = parsePrefix(bytes, origin, (reader) => this.#read(reader, bytes))
    if (parsed === undefined) return undefined
    const [step, change] = parsed.value
    change()
    const taken = step.kind === 'boundary' || step.kind === 'refuse' ? 0 : parsed.length
    return { value: step, length: taken }
  }

  /**
   * The footer behind a body of RAM.
   * @throws FormatError
   */
  ramFooter(bytes: Uint8Array, origin = 0): Parsed<void> | undefined {
    const id = this.#ramId
    if (this.#inRam === undefined || id === undefined) throw new Error('no body of RAM is being read')
    const parsed = parsePrefix(bytes, origin, (reader) => readFooter(reader, id))
    if (parsed === undefined) return undefined
    if (this.#inRam === 'end') {
      this.#ramEnded = true
      this.#open.delete(id)
    }
    this.#inRam = undefined
    return parsed
  }

  #read(reader: Reader, bytes: Uint8Array): [Step, Change] {
    const head = readHead(reader)
    switch (head.kind) {
      case 'start':
      case 'full':
        return this.#named(reader, bytes, head)
      case 'part':
      case 'end':
        return this.#further(reader, bytes, head)
      case 'command':
        return [
          {
            kind: 'command',
            command: head.command,
            fate: commandFate(head.command),
            bytes: bytes.subarray(0, reader.used),
          },
          nothing,
        ]
      case 'eof':
        return [this.#boundary('EOF'), nothing]
      case 'description':
        throw new FormatError('the description of the device states comes before EOF')
      default:
        return head satisfies never
    }
  }

  #named(reader: Reader, bytes: Uint8Array, head: NamedHead): [Step, Change] {
    const role = sectionRole(head)
    if (this.#open.has(head.id)) throw unexpected(titleOf(head), 'an id that is in use', 'a new one')
    switch (role.kind) {
      case 'ram':
        if (this.#ramId !== undefined) throw unexpected(titleOf(head), 'a second START', 'one')
        return [
          { kind: 'ram', part: 'start', id: head.id },
          () => {
            this.#ramId = head.id
            this.#inRam = 'start'
            this.#open.set(head.id, 'ram')
          },
        ]
      case 'dirty-bitmap':
        readDirtyBitmapBody(reader)
        return [whole(reader, bytes, head, false), () => this.#open.set(head.id, 'dirty-bitmap')]
      case 'virtio-mem':
        readVirtioMemEarly(reader)
        return [whole(reader, bytes, head, false), nothing]
      case 'device':
        return [this.#boundary(titleOf(head)), nothing]
      case 'refuse':
        return [role, nothing]
      default:
        return role satisfies never
    }
  }

  #further(reader: Reader, bytes: Uint8Array, head: FurtherHead): [Step, Change] {
    const { kind: part, id } = head
    const name = this.#open.get(id)
    switch (name) {
      case undefined:
        throw unexpected(`${part.toUpperCase()} of section ${id}`, 'no such section', 'one that began')
      case 'ram':
        return [
          { kind: 'ram', part, id },
          () => {
            this.#inRam = part
          },
        ]
      case 'dirty-bitmap': {
        const { empty } = readDirtyBitmapBody(reader)
        const step = whole(reader, bytes, { id, name }, empty && part === 'part')
        return [step, part === 'end' ? () => this.#open.delete(id) : nothing]
      }
      default:
        return name satisfies never
    }
  }

  #boundary(what: string): Step {
    if (this.#ramId === undefined) throw unexpected('migration stream', `${what} before RAM`, 'START of RAM')
    return { kind: 'boundary', ramEnded: false }
  }
}

/** A section with its footer, read to its end. */
function whole(
  reader: Reader,
  bytes: Uint8Array,
  { id, name }: { readonly id: number; readonly name: string },
  empty: boolean,
): Step {
  readFooter(reader, id)
  return { kind: 'section', name, empty, bytes: bytes.subarray(0, reader.used) }
}
