// SPDX-License-Identifier: Apache-2.0
// The first messages of a connection: what a server says of itself, the client's flags, and the answer to EXPORT_NAME,
// which is not an option reply.
// Source: doc/proto.md, "Handshake".
//
//   S: "NBDMAGIC" | "IHAVEOPT" | be16 flags                                  newstyle; the client's be32 flags follow
//   S: "NBDMAGIC" | be64 magic | be64 size | be32 flags | 124 zeroes         oldstyle; transmission follows

import { hex, hexDump } from '../error-text.js'
import { Fields, getUint64, packed, u16, u32, u64, unexpected, viewOf } from './bytes.js'
import { HELLO_MAGIC, handshakeFlags, OLDSTYLE_MAGIC, OPTION_MAGIC } from './constants.js'

const { FIXED_NEWSTYLE, NO_ZEROES } = handshakeFlags

export const NEWSTYLE_HELLO_LENGTH = 18
export const OLDSTYLE_HELLO_LENGTH = 152
export const CLIENT_FLAGS_LENGTH = 4
/** Zeroes behind size and flags, where they were not agreed away. */
const RESERVED = 124

/** What the server of an export says of it. */
export interface ExportHead {
  /** Bytes. */
  readonly size: number
  /** Transmission flags. */
  readonly flags: number
}

export type Hello =
  /** Without `fixed` the only option is EXPORT_NAME. */
  | { readonly kind: 'newstyle'; readonly fixed: boolean; readonly noZeroes: boolean }
  /** There are no options: the server has one export, and this is it. */
  | ({ readonly kind: 'oldstyle' } & ExportHead)

export interface ParsedHello {
  readonly hello: Hello
  /** Bytes taken. */
  readonly length: number
}

/**
 * @param bytes  from the first byte of a connection
 * @returns undefined while bytes are missing
 * @throws PeerError when no NBD server sent them; wrong magic numbers are seen when they are whole
 */
export function parseHello(bytes: Uint8Array): ParsedHello | undefined {
  const view = viewOf(bytes)
  if (bytes.length < 8) return undefined
  if (view.getBigUint64(0) !== HELLO_MAGIC)
    throw unexpected('first bytes of an NBD server', hexDump(bytes.subarray(0, 8)), '"NBDMAGIC"')
  if (bytes.length < 16) return undefined
  const second = view.getBigUint64(8)
  if (second === OPTION_MAGIC) return newstyle(bytes)
  if (second === OLDSTYLE_MAGIC) return oldstyle(bytes)
  throw unexpected(
    'second magic number of an NBD server',
    hex(second),
    `${hex(OPTION_MAGIC)} or ${hex(OLDSTYLE_MAGIC)}`,
  )
}

function newstyle(bytes: Uint8Array): ParsedHello | undefined {
  if (bytes.length < NEWSTYLE_HELLO_LENGTH) return undefined
  const flags = viewOf(bytes).getUint16(16)
  const hello = {
    kind: 'newstyle',
    fixed: (flags & FIXED_NEWSTYLE) !== 0,
    noZeroes: (flags & NO_ZEROES) !== 0,
  } as const
  return { hello, length: NEWSTYLE_HELLO_LENGTH }
}

function oldstyle(bytes: Uint8Array): ParsedHello | undefined {
  if (bytes.length < OLDSTYLE_HELLO_LENGTH) return undefined
  const fields = new Fields(bytes.subarray(16), 'oldstyle hello')
  const size = fields.u64('size')
  // The upper half is the place of handshake flags; an oldstyle server sets none.
  const flags = fields.u32() & 0xffff
  return { hello: { kind: 'oldstyle', size, flags }, length: OLDSTYLE_HELLO_LENGTH }
}

export function formatHello(hello: Hello): Uint8Array {
  if (hello.kind === 'oldstyle')
    return packed(
      u64(HELLO_MAGIC),
      u64(OLDSTYLE_MAGIC),
      u64(hello.size),
      u32(hello.flags),
      new Uint8Array(RESERVED),
    )
  return packed(u64(HELLO_MAGIC), u64(OPTION_MAGIC), u16(flagsOf(hello)))
}

export interface ClientFlags {
  readonly fixed: boolean
  readonly noZeroes: boolean
}

/**
 * @param bytes  exactly four
 * @throws PeerError for flags that were not offered
 */
export function parseClientFlags(bytes: Uint8Array): ClientFlags {
  const flags = viewOf(bytes).getUint32(0)
  const known = FIXED_NEWSTYLE | NO_ZEROES
  if (flags > known) throw unexpected('client flags', hex(flags), `at most ${hex(known)}`)
  return { fixed: (flags & FIXED_NEWSTYLE) !== 0, noZeroes: (flags & NO_ZEROES) !== 0 }
}

export function formatClientFlags(flags: ClientFlags): Uint8Array {
  return u32(flagsOf(flags))
}

function flagsOf({ fixed, noZeroes }: ClientFlags): number {
  return (fixed ? FIXED_NEWSTYLE : 0) | (noZeroes ? NO_ZEROES : 0)
}

/** Bytes of the answer to EXPORT_NAME. */
export function exportHeadLength(noZeroes: boolean): number {
  return noZeroes ? 10 : 10 + RESERVED
}

/**
 * The answer to EXPORT_NAME; that no more bytes come is the other one.
 * @param bytes  exactly exportHeadLength() of them; what the zeroes are is not looked at
 * @throws PeerError for sizes above 2^53
 */
export function parseExportHead(bytes: Uint8Array): ExportHead {
  const view = viewOf(bytes)
  const size = getUint64(view, 0)
  if (!Number.isSafeInteger(size))
    throw unexpected('size of the export', view.getBigUint64(0).toString(), 'less than 2^53')
  return { size, flags: view.getUint16(8) }
}

export function formatExportHead({ size, flags }: ExportHead, noZeroes: boolean): Uint8Array {
  return packed(u64(size), u16(flags), new Uint8Array(noZeroes ? 0 : RESERVED))
}
