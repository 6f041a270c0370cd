// SPDX-License-Identifier: Apache-2.0
// The first bytes of a multifd channel. Source: MultiFDInit_t in QEMU 10.0, migration/multifd.c.
//
//   0 magic | 4 version 1 | 8 UUID | 24 channel | 25 unused | 64

import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { hex } from './error-text.js'
import { CHANNEL_MAGIC } from './preamble.js'

export const HELLO_LENGTH = 64
export const MULTIFD_VERSION = 1
const UUID_LENGTH = 16
const UNUSED = 39

export interface Hello {
  /** 16 bytes of the VM, zero when it has none. A destination refuses another than its own. */
  readonly uuid: Uint8Array
  /** 0 … channels - 1; connections come in any order. */
  readonly channel: number
}

/** @throws FormatError */
export function parseHello(bytes: Uint8Array, origin = 0): Parsed<Hello> | undefined {
  return parsePrefix(bytes, origin, (reader) => {
    readMultifdMagic(reader, 'multifd channel')
    const uuid = reader.take(UUID_LENGTH).slice()
    const channel = reader.u8()
    reader.take(UNUSED)
    return { uuid, channel }
  })
}

export function formatHello({ uuid, channel }: Hello): Uint8Array {
  const writer = new Writer().u32(CHANNEL_MAGIC).u32(MULTIFD_VERSION).raw(uuid).u8(channel)
  return writer.raw(new Uint8Array(UNUSED)).finish()
}

/** What a hello and every packet begin with. */
export function readMultifdMagic(reader: Reader, thing: string): void {
  const magic = reader.u32()
  if (magic !== CHANNEL_MAGIC)
    throw reader.wrong(`magic number of a ${thing}`, hex(magic), hex(CHANNEL_MAGIC))
  const version = reader.u32()
  if (version !== MULTIFD_VERSION) throw reader.wrong(`version of a ${thing}`, version, MULTIFD_VERSION)
}
