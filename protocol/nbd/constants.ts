// SPDX-License-Identifier: Apache-2.0
// Numbers of the NBD protocol under their names there, without the prefixes (`NBD_OPT_GO` is `options.GO`).
// Source: doc/proto.md of NetworkBlockDevice/nbd, as of 2026, and its branch extension-ext-header (what has to do with
// extended headers); QEMU 10.0, docs/interop/nbd.rst (contexts of QEMU).

/** Names of a table of numbers or bits. */
export type NameIn<T> = keyof T & string

/** "NBDMAGIC": begins what a server sends. */
export const HELLO_MAGIC = 0x4e42_444d_4147_4943n
/** "IHAVEOPT": newstyle servers send it second, and it begins every option. */
export const OPTION_MAGIC = 0x4948_4156_454f_5054n
/** What oldstyle servers send second. */
export const OLDSTYLE_MAGIC = 0x0000_4202_8186_1253n
export const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n
export const REQUEST_MAGIC = 0x2560_9513
export const EXTENDED_REQUEST_MAGIC = 0x21e4_1c71
export const SIMPLE_REPLY_MAGIC = 0x6744_6698
export const CHUNK_MAGIC = 0x668e_33ef
export const EXTENDED_CHUNK_MAGIC = 0x6e8a_278c

/** Of the server, 16 bits; the client's, 32 bits, have the same values. */
export const handshakeFlags = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const

/** What a server can do with an export, 16 bits. */
export const transmissionFlags = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
  BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const

export const options = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const

export const optionReplies = { ACK: 1, SERVER: 2, INFO: 3, META_CONTEXT: 4 } as const

/** All replies with bit 31 are errors, also those that are not listed. */
export const OPTION_ERROR = 0x8000_0000
export const optionErrors = {
  ERR_UNSUP: 0x8000_0001,
  ERR_POLICY: 0x8000_0002,
  ERR_INVALID: 0x8000_0003,
  ERR_PLATFORM: 0x8000_0004,
  ERR_TLS_REQD: 0x8000_0005,
  ERR_UNKNOWN: 0x8000_0006,
  ERR_SHUTDOWN: 0x8000_0007,
  ERR_BLOCK_SIZE_REQD: 0x8000_0008,
  ERR_TOO_BIG: 0x8000_0009,
  ERR_EXT_HEADER_REQD: 0x8000_000a,
} as const

export type OptionErrorName = NameIn<typeof optionErrors>

export const infos = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

export const commands = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const

export type CommandName = NameIn<typeof commands>

export const commandFlags = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
  PAYLOAD_LEN: 1 << 5,
} as const

/** Of a chunk: no other one of this reply follows. */
export const CHUNK_DONE = 1

/** All types with bit 15 are errors, also those that are not listed. */
export const CHUNK_ERROR = 0x8000
export const chunkTypes = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const

/** Of extents in context `base:allocation`. */
export const allocationState = { HOLE: 1, ZERO: 2 } as const
/** Of extents in contexts `qemu:dirty-bitmap:…`; in `qemu:allocation-depth` the value is a number. */
export const dirtyState = { DIRTY: 1 } as const

export const limits = {
  /** Longest string, bytes of UTF-8. */
  string: 4096,
  /** Most data of an option or of a reply to one, bytes. Ours: the protocol sets none. */
  optionData: 64 * 1024,
  /** Most queries for contexts in one option, and most information requests. Ours. */
  queries: 256,
  infoRequests: 64,
  /** Most replies to an option of the client's negotiation. Ours. */
  optionReplies: 256,
  /** Where block sizes are not told, bytes: servers have to take payloads of this size. */
  payload: 32 * 1024 * 1024,
  /** Largest minimum block size, bytes. */
  minimumBlock: 64 * 1024,
  /** Most extents in a chunk of block status. */
  extents: 2 ** 20,
} as const

/** IANA's port. */
export const DEFAULT_PORT = 10809

type Table = Readonly<Record<string, number>>

/** Of each table that was asked for; the tables never change. */
const names = new WeakMap<Table, ReadonlyMap<number, string>>()

/** The name of a number in a table; undefined when it has none. */
export function nameOf<T extends Table>(table: T, number: number): NameIn<T> | undefined {
  let byNumber = names.get(table)
  if (byNumber === undefined) {
    byNumber = new Map(Object.entries(table).map(([name, value]) => [value, name]))
    names.set(table, byNumber)
  }
  return byNumber.get(number) as NameIn<T> | undefined
}

/** For texts: the name, or the number. */
export function nameOrNumber(table: Table, number: number): string {
  return nameOf(table, number) ?? String(number)
}
