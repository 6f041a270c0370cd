// SPDX-License-Identifier: Apache-2.0
// What to write to the first cluster so that an image names another backing file, or gets other extensions in front of that name. Pure.
// Used by image.ts.
//
// A name lies behind the extensions, the fields that point to it in the first sector. A new name goes to where the old
// header has nothing, so the first sector alone, written last, decides which of the two is there:
//
//   | fields, extensions | more extensions | old name |   new name   |        sector 0 switches from one to the other
//
// Where extensions change their places, one step in between leaves out the names of feature bits, which are a courtesy.

import { getUint64, viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { ExtensionType, formatHeader, type Header } from '../../../../../protocol/qcow2/header.js'
import type { BackingFile } from '../../driver.js'
import { SECTOR } from '../../node.js'

export interface HeaderStep {
  readonly header: Header
  /** All of the first cluster. */
  readonly bytes: Uint8Array
  /** The cluster as it was with what is new beside it: what is behind its first sector is written before that sector. */
  readonly beside: Uint8Array
}

/**
 * @param old  the first cluster as it is
 * @returns what to write, one after the other
 * @throws FormatError when the name does not fit into the cluster
 */
export function backingSteps(
  header: Header,
  old: Uint8Array,
  backing: BackingFile | undefined,
): HeaderStep[] {
  const extensions = withFormat(header.extensions, backing?.format)
  return movingSteps(header, old, { ...header, backingFile: backing?.name, extensions })
}

/**
 * The same for other extensions and fields; the name stays where it is if they leave it room.
 * @param last  with the same name
 */
export function extensionSteps(header: Header, old: Uint8Array, last: Header): HeaderStep[] {
  const nameOffset = getUint64(viewOf(old), 8)
  if (last.backingFile === undefined || extensionsEnd(last) <= nameOffset)
    return [stepTo(old, last, nameOffset)]
  return movingSteps(header, old, last)
}

function movingSteps(header: Header, old: Uint8Array, last: Header): HeaderStep[] {
  const { extensions } = last
  const first = Math.max(SECTOR, extensionsEnd(header), extensionsEnd(last))
  const free = freePlace(Buffer.byteLength(last.backingFile ?? ''), old, first)
  const step = (before: Uint8Array, next: Header) => stepTo(before, next, free)
  if (sameLayout(header.extensions, extensions)) return [step(old, last)]
  const fewer = step(old, {
    ...last,
    extensions: extensions.filter(({ type }) => type !== ExtensionType.featureNames),
  })
  return [fewer, step(fewer.bytes, last)]
}

/** Where a new name is not in the way of the old one: in front of it if there is room, else behind it. @param first  behind all extensions */
function freePlace(length: number, old: Uint8Array, first: number): number {
  return first + length <= getUint64(viewOf(old), 8) ? first : Math.max(first, usedEnd(old))
}

/** The name goes to an offset where there is room for it, else behind the extensions. */
function stepTo(before: Uint8Array, header: Header, nameOffset: number): HeaderStep {
  const length = Buffer.byteLength(header.backingFile ?? '')
  const bytes = formatHeader(header, nameOffset + length <= before.length ? nameOffset : 0)
  const beside = before.slice()
  const extensions = bytes.subarray(SECTOR, extensionsEnd(header))
  beside.set(extensions, Math.min(SECTOR, beside.length))
  beside.set(bytes.subarray(nameOffset, nameOffset + length), Math.min(nameOffset, beside.length))
  return { header, bytes, beside }
}

/** With their end mark, which is where a name would be. */
function extensionsEnd(header: Header): number {
  return getUint64(viewOf(formatHeader({ ...header, backingFile: '-' })), 8)
}

function usedEnd(bytes: Uint8Array): number {
  let end = bytes.length
  while (end > 0 && bytes[end - 1] === 0) end--
  return end
}

function withFormat(extensions: Header['extensions'], format: string | undefined): Header['extensions'] {
  const others = extensions.filter(({ type }) => type !== ExtensionType.backingFormat)
  if (format === undefined) return others
  const data = new TextEncoder().encode(format)
  const at = extensions.findIndex(({ type }) => type === ExtensionType.backingFormat)
  return others.toSpliced(Math.max(0, at), 0, { type: ExtensionType.backingFormat, data })
}

function sameLayout(one: Header['extensions'], other: Header['extensions']): boolean {
  const shape = (list: Header['extensions']) =>
    list.map(({ type, data }) => `${type}:${Math.ceil(data.length / 8)}`).join()
  return shape(one) === shape(other)
}
