// SPDX-License-Identifier: Apache-2.0
// The configuration section: machine type, page size, the two capabilities that change the layout of a stream, UUID.
// It follows the preamble and has no footer. Source: vmstate_configuration in QEMU 10.0, migration/savevm.c.
//
//   07 | be32 n, machine | subsections: 05, counted name, be32 version 1, fields
//
// The list of subsections ends at a byte that is not 05: the parser needs one byte more than it takes.

import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { hex, quoted } from './error-text.js'
import { SectionType } from './section-type.js'

export type ListedCapability = 'x-ignore-shared' | 'mapped-ram'
/** In QEMU's order. A destination refuses any other name, and any difference from its own capabilities. */
const listable: readonly ListedCapability[] = ['x-ignore-shared', 'mapped-ram']

const subsections = ['target-page-bits', 'capabilities', 'uuid'] as const
type Subsection = (typeof subsections)[number]

export interface Configuration {
  /** For example "pc-q35-10.0". */
  readonly machine: string
  /** Pages have 2 ** pageBits bytes; undefined: the CPU's smallest, 4096 on x86. */
  readonly pageBits: number | undefined
  /** undefined: there is no list, which says the same as an empty one. */
  readonly capabilities: readonly ListedCapability[] | undefined
  /** 16 bytes, when capability validate-uuid is on. */
  readonly uuid: Uint8Array | undefined
}

/** Page flags need the bits below 2^10; no target has pages larger than 64 KiB. */
const MIN_PAGE_BITS = 10
const MAX_PAGE_BITS = 16
const DEFAULT_PAGE_BITS = 12
const UUID_LENGTH = 16

/** @throws FormatError */
export function parseConfiguration(bytes: Uint8Array, origin = 0): Parsed<Configuration> | undefined {
  return parsePrefix(bytes, origin, readConfiguration)
}

function readConfiguration(reader: Reader): Configuration {
  const type = reader.u8()
  if (type !== SectionType.configuration)
    throw reader.wrong(
      'type of the first section',
      hex(type),
      `${hex(SectionType.configuration)}, configuration`,
    )
  const machine = reader.text(reader.u32(), 'machine type')
  let configuration: Configuration = {
    machine,
    pageBits: undefined,
    capabilities: undefined,
    uuid: undefined,
  }
  let next = 0
  while (reader.peek() === SectionType.subsection) {
    const kind = readSubsectionHead(reader, next)
    next = subsections.indexOf(kind) + 1
    configuration = { ...configuration, ...readFields(reader, kind) }
  }
  return configuration
}

export function formatConfiguration(configuration: Configuration): Uint8Array {
  const { machine, pageBits, capabilities, uuid } = configuration
  const name = new TextEncoder().encode(machine)
  const writer = new Writer().u8(SectionType.configuration).u32(name.length).raw(name)
  if (pageBits !== undefined) subsection(writer, 'target-page-bits').u32(pageBits)
  if (capabilities !== undefined) {
    subsection(writer, 'capabilities').u32(capabilities.length)
    for (const capability of capabilities) writer.name(capability)
  }
  if (uuid !== undefined) subsection(writer, 'uuid').raw(uuid)
  return writer.finish()
}

export function pageSizeOf(configuration: Configuration): number {
  return 2 ** (configuration.pageBits ?? DEFAULT_PAGE_BITS)
}

export function hasCapability(configuration: Configuration, capability: ListedCapability): boolean {
  return configuration.capabilities?.includes(capability) ?? false
}

/** With the capability in the list, at QEMU's place; a new list when there was none. */
export function withCapability(configuration: Configuration, capability: ListedCapability): Configuration {
  const wanted = (name: ListedCapability) => name === capability || hasCapability(configuration, name)
  return { ...configuration, capabilities: listable.filter(wanted) }
}

/** Without the capability; a list that would be empty is left out, as QEMU does. */
export function withoutCapability(configuration: Configuration, capability: ListedCapability): Configuration {
  const rest = (configuration.capabilities ?? []).filter((name) => name !== capability)
  return { ...configuration, capabilities: rest.length > 0 ? rest : undefined }
}

/** That of a mapped-ram file made from a stream: all memory is in it, also what x-ignore-shared had left out. */
export function mappedConfiguration(configuration: Configuration): Configuration {
  return withCapability(withoutCapability(configuration, 'x-ignore-shared'), 'mapped-ram')
}

function readSubsectionHead(reader: Reader, next: number): Subsection {
  reader.u8()
  const name = reader.name('name of a configuration subsection')
  const kind = subsections.slice(next).find((one) => name === `configuration/${one}`)
  if (kind === undefined) {
    const rest = subsections.slice(next).map((one) => quoted(`configuration/${one}`))
    throw reader.wrong('configuration subsection', quoted(name), rest.join(', ') || 'no more')
  }
  const version = reader.u32()
  if (version !== 1) throw reader.wrong(`version of ${quoted(name)}`, version, 1)
  return kind
}

function readFields(reader: Reader, kind: Subsection): Partial<Configuration> {
  switch (kind) {
    case 'target-page-bits':
      return { pageBits: readPageBits(reader) }
    case 'capabilities':
      return { capabilities: readCapabilities(reader) }
    case 'uuid':
      return { uuid: reader.take(UUID_LENGTH).slice() }
    default:
      return kind satisfies never
  }
}

function readPageBits(reader: Reader): number {
  const bits = reader.u32()
  if (bits >= MIN_PAGE_BITS && bits <= MAX_PAGE_BITS) return bits
  throw reader.wrong('target page bits', bits, `${MIN_PAGE_BITS} to ${MAX_PAGE_BITS}`)
}

function readCapabilities(reader: Reader): ListedCapability[] {
  const count = reader.u32()
  const found: ListedCapability[] = []
  while (found.length < count) {
    const name = reader.name('listed capability')
    const known = listable.find((one) => one === name && !found.includes(one))
    if (known === undefined)
      throw reader.wrong(
        'listed capability',
        quoted(name),
        `${listable.map(quoted).join(' and ')}, each once`,
      )
    found.push(known)
  }
  return found
}

function subsection(writer: Writer, kind: Subsection): Writer {
  return writer.u8(SectionType.subsection).name(`configuration/${kind}`).u32(1)
}
