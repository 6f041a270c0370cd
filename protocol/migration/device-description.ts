// SPDX-License-Identifier: Apache-2.0
// What the JSON at the end of a stream says: which device sections there are, in their order, and how long each is. With it
// they can be walked, though they have no lengths. Source: vmstate_save_state_v() in QEMU 10.0, migration/vmstate.c.
//
//   { "page_size", "configuration", "devices": [ { "name", "instance_id", "version", "fields": [ { "size", "array_len" } ],
//     "subsections": [ { "vmsd_name", "version", "fields", "subsections" } ] } ] }

import { FormatError } from '../format-error.js'
import { textOf } from './bytes.js'
import { quoted, unexpected } from './error-text.js'

/** One FULL section. */
export interface DeviceSection {
  readonly name: string
  readonly instance: number
  /** Bytes between its head and its footer. */
  readonly length: number
}

export interface DeviceDescription {
  /** Bytes; undefined: not said. */
  readonly pageSize: number | undefined
  /** In the order of the stream; early sections too, which stand in front of the others there. */
  readonly sections: readonly DeviceSection[]
}

/** Type byte, length byte and version in front of the fields of a subsection; its name comes to that. */
const SUBSECTION_HEAD = 1 + 1 + 4
/** Subsections of subsections: QEMU has three levels. */
const MAX_DEPTH = 32

type Members = Readonly<Record<string, unknown>>

/** @returns undefined when it is no such JSON */
export function parseDescription(json: Uint8Array): DeviceDescription | undefined {
  const text = textOf(json)
  if (text === undefined) return undefined
  try {
    const { devices, page_size } = membersOf(JSON.parse(text), 'description')
    const pageSize = page_size === undefined ? undefined : countOf(page_size, 'page size of the description')
    return { pageSize, sections: listOf(devices, 'devices').map(sectionOf) }
  } catch (error) {
    if (error instanceof FormatError || error instanceof SyntaxError) return undefined
    throw error
  }
}

function sectionOf(device: unknown): DeviceSection {
  const members = membersOf(device, 'device')
  const name = textMember(members, 'name')
  const length = lengthOf(members, 0)
  if (!Number.isSafeInteger(length)) throw unexpected(`length of ${quoted(name)}`, length, 'less than 2^53')
  return { name, instance: countOf(members.instance_id, `instance of ${quoted(name)}`), length }
}

/** Fields and subsections. */
function lengthOf({ fields, subsections }: Members, depth: number): number {
  if (depth > MAX_DEPTH) throw unexpected('subsections', 'more levels', `at most ${MAX_DEPTH}`)
  let length = 0
  for (const field of listOf(fields ?? [], 'fields')) length += fieldLength(membersOf(field, 'field'))
  for (const subsection of listOf(subsections ?? [], 'subsections')) {
    const members = membersOf(subsection, 'subsection')
    const name = new TextEncoder().encode(textMember(members, 'vmsd_name'))
    length += SUBSECTION_HEAD + name.length + lengthOf(members, depth + 1)
  }
  return length
}

/** `size` is that of one element, structures and their subsections counted in. */
function fieldLength({ size, array_len }: Members): number {
  return (
    countOf(size, 'size of a field') *
    (array_len === undefined ? 1 : countOf(array_len, 'length of an array'))
  )
}

function membersOf(value: unknown, what: string): Members {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Members
  throw unexpected(what, typeof value, 'an object')
}

function listOf(value: unknown, what: string): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw unexpected(what, typeof value, 'a list')
}

function countOf(value: unknown, what: string): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw unexpected(what, String(value), 'a number')
}

function textMember(members: Members, member: string): string {
  const value = members[member]
  if (typeof value === 'string') return value
  throw unexpected(member, typeof value, 'text')
}
