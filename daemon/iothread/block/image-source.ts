// SPDX-License-Identifier: Apache-2.0
// The bytes of an image before its node is open: enough to read what a header names. Used by implied.ts.
// Opened for reading, without locks, and closed again at once; nothing is believed of it later.

import type { FileId, IoEngine } from '../../../native/types.js'
import { FormatError } from '../../../protocol/format-error.js'
import { clusterSizeOf, type Header, isQcow2, parseHeader } from '../../../protocol/qcow2/header.js'
import { errnoText } from '../../common/errno.js'
import { CommandError } from '../../errors.js'
import type { NodeDefinition, NodeFiles } from '../messages.js'
import { type BlockNode, SECTOR } from './node.js'

/** Bytes that tell a qcow2 image and its cluster size. */
const HEAD = 512

/** What was found where an image should be. */
export interface ImageHead {
  readonly kind: 'file' | 'block' | 'other'
  /** `device:inode`; undefined when no file is behind it. */
  readonly identity: string | undefined
  /** Path of the file; undefined when none is behind it. */
  readonly path: string | undefined
  /** It begins as qcow2 images do. */
  readonly qcow2: boolean
  /** undefined when it is no image that can be opened: the driver will say why. */
  readonly header: Header | undefined
}

/** An open node that a definition names, and the file behind it. */
export interface NamedImage {
  readonly node: BlockNode
  readonly path: string | undefined
  readonly identity: string | undefined
}

/** Where the bytes of a child are: an open node or a file, and how far into it. */
export type Place = {
  readonly at: { readonly node: string } | FilePlace
  /** Bytes. */
  readonly offset: number
}

interface FilePlace {
  /** As it is called. */
  readonly path: string
  /** Where it is opened; undefined: by its path. */
  readonly opened?: string | undefined
}

/** Drivers that show their child's bytes as they are. */
const filters: Readonly<Record<string, 'file' | 'image'>> = {
  raw: 'file',
  throttle: 'file',
  compress: 'file',
  'x-inject': 'file',
  blkdebug: 'image',
}

/**
 * @returns undefined for storage that is empty when it is opened
 * @throws CommandError for a format, whose bytes nobody knows before it is open
 */
export function placeOf(child: string | NodeDefinition): Place | undefined {
  if (typeof child === 'string') return { at: { node: child }, offset: 0 }
  const { driver } = child
  if (driver === 'file' || driver === 'host_device') {
    const files = child.files as NodeFiles | undefined
    return { at: { path: String(child.filename), opened: files?.read ?? files?.both }, offset: 0 }
  }
  const role = filters[driver]
  if (role !== undefined) {
    const below = placeOf(child[role] as string | NodeDefinition)
    const skipped = driver === 'raw' ? ((child.offset as number | undefined) ?? 0) : 0
    return below && { at: below.at, offset: below.offset + skipped }
  }
  if (driver === 'qcow2')
    throw new CommandError(`An image inside a ${driver} node needs that node to be named`)
  return undefined
}

type Read = (offset: number, length: number) => Promise<Uint8Array>

export class ImageSource {
  readonly #engine: IoEngine
  readonly #named: (name: string) => Promise<NamedImage>

  /** @param named  finds an open node, with what is known of its storage learned anew */
  constructor(engine: IoEngine, named: (name: string) => Promise<NamedImage>) {
    this.#engine = engine
    this.#named = named
  }

  /** @throws CommandError when a file cannot be opened or read, with the texts of the file driver */
  async look({ at, offset }: Place): Promise<ImageHead> {
    if ('path' in at) return this.#lookFile(at, offset)
    const { node, path, identity } = await this.#named(at.node)
    const end = Math.ceil(node.length() / SECTOR) * SECTOR
    const read: Read = (from, length) =>
      this.#withSlot(Math.min(length, end - from), (slot, size) =>
        node.read(from, { slot, offset: 0, length: size }).then(() => size),
      )
    return { kind: 'file', identity, path, ...(await readHeader(read, offset)) }
  }

  async #lookFile({ path, opened = path }: FilePlace, offset: number): Promise<ImageHead> {
    const file = await this.#engine.open(opened, { write: false })
    if (file < 0) throw new CommandError(`Could not open '${path}': ${errnoText(-file)}`)
    try {
      const facts = await this.#engine.stat(file)
      if (typeof facts === 'number') throw new CommandError(`Could not stat file: ${errnoText(-facts)}`)
      const identity = `${facts.device}:${facts.inode}`
      if (facts.kind !== 'file' && facts.kind !== 'block')
        return { kind: 'other', identity, path, qcow2: false, header: undefined }
      const read: Read = (from, length) => this.#readFile(file, path, from, length)
      return { kind: facts.kind, identity, path, ...(await readHeader(read, offset)) }
    } finally {
      await this.#engine.close(file)
    }
  }

  #readFile(file: FileId, path: string, offset: number, length: number): Promise<Uint8Array> {
    return this.#withSlot(length, async (slot, size) => {
      const got = await this.#engine.read(file, offset, size, slot, 0)
      if (got < 0) throw new CommandError(`Could not read '${path}': ${errnoText(-got)}`)
      return got
    })
  }

  /** Reads at most `length` bytes, and at most a slot, through a slot of the engine. */
  async #withSlot(
    length: number,
    read: (slot: number, size: number) => Promise<number>,
  ): Promise<Uint8Array> {
    if (length <= 0) return new Uint8Array(0)
    const slots = this.#engine.takeSlots(1)
    const [slot] = slots
    if (slot === undefined) throw new CommandError('Could not read image header: no free buffer')
    try {
      const got = await read(slot, Math.min(length, this.#engine.slotSize))
      return this.#engine.slotBytes(slot).slice(0, got)
    } finally {
      this.#engine.giveSlots(slots)
    }
  }
}

async function readHeader(read: Read, offset: number): Promise<Pick<ImageHead, 'qcow2' | 'header'>> {
  const head = await read(offset, HEAD)
  if (!isQcow2(head)) return { qcow2: false, header: undefined }
  try {
    return { qcow2: true, header: parseHeader(await readAll(read, offset, clusterSizeOf(head))) }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
    return { qcow2: true, header: undefined }
  }
}

/** Up to `length` bytes; fewer at the end of the file. */
async function readAll(read: Read, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  let got = 0
  while (got < length) {
    const part = await read(offset + got, length - got)
    if (part.length === 0) break
    bytes.set(part, got)
    got += part.length
  }
  return bytes.subarray(0, got)
}
