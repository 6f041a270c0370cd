// SPDX-License-Identifier: Apache-2.0
// Heads and footers of sections. Bodies have no length: whoever reads a head has to know what follows it.
// Source: QEMU 10.0, migration/savevm.c, save_section_header() and qemu_loadvm_state_main().
//
//   START, FULL   type | be32 id | counted name | be32 instance | be32 version | body | footer
//   PART, END     type | be32 id | body | footer
//   footer        7e | be32 id

import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { type Command, readCommand } from './command.js'
import { hex, quoted } from './error-text.js'
import { SectionType } from './section-type.js'

/** Descriptions of real machines have some 100 KB. */
export const MAX_DESCRIPTION = 16 * 2 ** 20

/** START of an iterable handler, or FULL with the whole state of a device. */
export interface NamedHead {
  readonly kind: 'start' | 'full'
  /** A counter of the source: the same device has other ids in other versions. */
  readonly id: number
  readonly name: string
  readonly instance: number
  readonly version: number
}

/** PART or END of what a START with this id began. */
export interface FurtherHead {
  readonly kind: 'part' | 'end'
  readonly id: number
}

export type Head =
  | NamedHead
  | FurtherHead
  /** Whole: commands have a length. */
  | { readonly kind: 'command'; readonly command: Command }
  | { readonly kind: 'eof' }
  /** That many bytes of JSON follow. */
  | { readonly kind: 'description'; readonly jsonLength: number }

/**
 * The head of the next section, at the place of its type byte; any place behind the configuration section.
 * @throws FormatError
 */
export function parseHead(bytes: Uint8Array, origin = 0): Parsed<Head> | undefined {
  return parsePrefix(bytes, origin, readHead)
}

/** parseHead() within a larger parser. */
export function readHead(reader: Reader): Head {
  const type = reader.u8()
  switch (type) {
    case SectionType.eof:
      return { kind: 'eof' }
    case SectionType.start:
    case SectionType.full:
      return readNamed(reader, type === SectionType.start ? 'start' : 'full')
    case SectionType.part:
    case SectionType.end:
      return { kind: type === SectionType.part ? 'part' : 'end', id: reader.u32() }
    case SectionType.command:
      return { kind: 'command', command: readCommand(reader) }
    case SectionType.description:
      return { kind: 'description', jsonLength: readJsonLength(reader) }
    default:
      throw reader.wrong(
        'type of a section',
        misplaced.get(type) ?? hex(type),
        'start of a section, command or EOF',
      )
  }
}

/** Types that exist but do not belong here. */
const misplaced: ReadonlyMap<number, string> = new Map([
  [SectionType.subsection, 'a subsection (0x5)'],
  [SectionType.configuration, 'a second configuration (0x7)'],
  [SectionType.footer, 'a footer (0x7e)'],
])

export function formatHead(head: NamedHead | FurtherHead): Uint8Array {
  const writer = new Writer().u8(SectionType[head.kind]).u32(head.id)
  if (head.kind === 'start' || head.kind === 'full')
    writer.name(head.name).u32(head.instance).u32(head.version)
  return writer.finish()
}

/** @throws FormatError when it is no footer, or another section's */
export function parseFooter(bytes: Uint8Array, id: number, origin = 0): Parsed<void> | undefined {
  return parsePrefix(bytes, origin, (reader) => readFooter(reader, id))
}

/** parseFooter() within a larger parser. */
export function readFooter(reader: Reader, id: number): void {
  const type = reader.u8()
  if (type !== SectionType.footer)
    throw reader.wrong(`footer of section ${id}`, hex(type), hex(SectionType.footer))
  const found = reader.u32()
  if (found !== id) throw reader.wrong('section id of a footer', found, id)
}

export function formatFooter(id: number): Uint8Array {
  return new Writer().u8(SectionType.footer).u32(id).finish()
}

function readNamed(reader: Reader, kind: 'start' | 'full'): NamedHead {
  const id = reader.u32()
  const name = reader.name('name of a section')
  return { kind, id, name, instance: reader.u32(), version: reader.u32() }
}

function readJsonLength(reader: Reader): number {
  const length = reader.u32()
  if (length >= 2 && length <= MAX_DESCRIPTION) return length
  throw reader.wrong('length of the description', length, `2 to ${MAX_DESCRIPTION}`)
}

/** How errors call a section. */
export function titleOf({ id, name }: { readonly id: number; readonly name: string }): string {
  return `section ${id} ${quoted(name)}`
}
