// SPDX-License-Identifier: Apache-2.0
// The first bytes of a migration connection or file: what kind it is, and the magic number and version of a stream.
// Source: QEMU 10.0, migration/savevm.h and multifd.c.

import { FormatError } from '../format-error.js'
import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { hex } from './error-text.js'
import { refusals } from './refusals.js'

export const PREAMBLE_LENGTH = 8
/** "QEVM" */
const MAGIC = 0x5145_564d
const VERSION = 3
/** Magic number of the connections that carry pages for a main one; see multifd-hello.ts. */
export const CHANNEL_MAGIC = 0x1122_3344
/** A TLS record with a handshake begins so; the next byte is 3 for every version. */
const TLS_HANDSHAKE = 0x16

/** `main` carries a stream, `channel` pages beside it. Connections come in any order and only their first bytes tell. */
export type ConnectionKind = 'main' | 'channel'

/**
 * @param bytes  from the first byte of a connection
 * @returns undefined while fewer than four are there
 * @throws FormatError when it is neither; TLS is named
 */
export function connectionKind(bytes: Uint8Array): ConnectionKind | undefined {
  if (bytes[0] === TLS_HANDSHAKE && (bytes[1] ?? 3) === 3) throw new FormatError(refusals.tls)
  return parsePrefix(bytes, 0, readKind)?.value
}

function readKind(reader: Reader): ConnectionKind {
  const magic = reader.u32()
  if (magic === MAGIC) return 'main'
  if (magic === CHANNEL_MAGIC) return 'channel'
  throw reader.wrong('magic number of a connection', hex(magic), `${hex(MAGIC)} or ${hex(CHANNEL_MAGIC)}`)
}

/**
 * Checks magic number and version; there is one version.
 * @throws FormatError
 */
export function parsePreamble(bytes: Uint8Array, origin = 0): Parsed<void> | undefined {
  return parsePrefix(bytes, origin, readPreamble)
}

function readPreamble(reader: Reader): void {
  if (reader.peek() === TLS_HANDSHAKE) throw new FormatError(refusals.tls)
  reader.constant(formatPreamble().subarray(0, 4), 'magic number of a migration stream')
  const version = reader.u32()
  if (version !== VERSION) throw reader.wrong('version of the migration stream', version, VERSION)
}

export function formatPreamble(): Uint8Array {
  return new Writer().u32(MAGIC).u32(VERSION).finish()
}
