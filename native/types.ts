// SPDX-License-Identifier: Apache-2.0
// What the addon promises to TypeScript. Implemented by native/engine.ts over native/src; used by
// daemon/iothread/block/drivers and by the composition roots. No N-API detail leaks out of native/.
//
// Rules every verb keeps:
// - A call returns at once; the work runs on the engine's own tasks or ring, never on libuv's pool.
// - A result is >= 0, or -errno. Verbs never throw for what storage says and never reject.
// - A stuck call blocks only itself and is visible in oldest() until it ends.

import type { HttpLaneTerms, Lane, LaneTerms } from './lane-types.js'
import type { StreamVerbs } from './stream-types.js'

export type EngineKind = 'threads' | 'io_uring'
/** 'auto': io_uring where the kernel lets us, else threads. */
export type AioChoice = 'auto' | EngineKind

export interface EngineOptions {
  readonly aio: AioChoice
  /** Bytes per buffer slot, multiple of 4096. Default 1 MiB. */
  readonly slotSize?: number
  /** Slots at most; memory is mapped in groups when first needed and given back when a group is idle. Default 64. */
  readonly maxSlots?: number
  /** Slots among those that takePiece() leaves to others, an even number. Default 0. */
  readonly setApart?: number
  /** Requests in flight at most; further ones queue inside the engine. Those of streams are not counted. Default 256. */
  readonly maxRequests?: number
  /** Bytes in flight at most (reads and writes). Default 128 MiB. */
  readonly maxBytes?: number
}

/** A file handle of one engine. Not a descriptor number: it carries what was learned about the file. */
export type FileId = number

export interface OpenFlags {
  readonly write: boolean
  /** Try O_DIRECT; where the file system refuses it the file is opened cached and `direct` says so. */
  readonly direct?: boolean
  readonly create?: boolean
  /** With create: fail with EEXIST when it is there. */
  readonly exclusive?: boolean
  readonly truncate?: boolean
  readonly directory?: boolean
  /** Mode of a created file; default 0o644. */
  readonly mode?: number
  /** Capabilities to leave untried, so that tests reach every branch of the ladders. */
  readonly without?: readonly Capability[]
}

export type Capability =
  | 'zero-range'
  | 'punch-hole'
  | 'fallocate'
  | 'blkzeroout'
  | 'blkdiscard'
  | 'nowait'
  | 'copy-range'
  | 'reflink'
  | 'map'

export interface FileFacts {
  readonly kind: 'file' | 'block' | 'char' | 'directory' | 'fifo' | 'socket'
  /** Bytes; of a block device its capacity. */
  readonly size: number
  /** Bytes of storage the file occupies (st_blocks * 512). */
  readonly allocated: number
  /** Whether O_DIRECT is in force on this handle. */
  readonly direct: boolean
  /** Alignment O_DIRECT wants of offset and length, bytes; 1 when not direct. */
  readonly requestAlign: number
  /** Alignment O_DIRECT wants of memory, bytes; slots always satisfy it. */
  readonly memoryAlign: number
  /** Identity, to see that two names are one file. Decimal strings: 64-bit inode numbers. */
  readonly device: string
  readonly inode: string
}

/** `[offset, length, kind, offset, length, kind, …]`; kind 1 data, 0 hole (reads as zero). Ascending, contiguous. */
export type ExtentList = Float64Array

export interface ReadOptions {
  /** Look whether everything read is zero; then the result has ZERO added. Costs nothing on data: it stops at the first byte. */
  readonly scan?: boolean
}
/** Added to the byte count of a read with `scan` whose bytes are all zero (2 ** 32: above every length). */
export const READ_ZERO = 2 ** 32

export interface ZeroOptions {
  /** Storage may be given back (a hole); else it stays or becomes allocated. */
  readonly unmap: boolean
  /** -ENOTSUP rather than writing zeroes. */
  readonly fast: boolean
}

/** Which rung of the ladder did it (results of zero()). */
export const ZeroRung = {
  hole: 0,
  zeroRange: 1,
  punchThenAllocate: 2,
  allocateBeyondEnd: 3,
  device: 4,
  written: 5,
} as const

/** How compressed clusters are stored: 'zlib' is raw deflate with a window of 4 KiB, 'zstd' frames of zstd. */
export type Codec = 'zlib' | 'zstd'

/** Bytes inside one slot; length > 0. */
export interface SlotRange {
  readonly slot: number
  /** Bytes from the start of the slot. */
  readonly offset: number
  readonly length: number
}
/** One after the other; at most 10. One range is worked on in place, several cost a copy. */
export type SlotRanges = SlotRange | readonly SlotRange[]

/** Bytes that a digest needs between two steps. */
export const DIGEST_STATE = 256

export interface DigestStep {
  /** Nothing came before. */
  readonly first: boolean
  /** Nothing comes behind. */
  readonly last: boolean
}

/** Bytes of a file or node. */
export interface Range {
  readonly offset: number
  readonly length: number
}

export interface PieceFailure {
  /** -errno */
  readonly result: number
  /** Which of the pieces it was. */
  readonly piece: number
}

export interface StuckRequest {
  readonly op: string
  readonly file: FileId
  readonly ageMs: number
}

export interface EngineStats {
  readonly requests: number
  readonly bytes: number
  readonly tasks: number
  readonly slotsInUse: number
  readonly slotsMapped: number
}

export interface IoEngine extends StreamVerbs {
  readonly kind: EngineKind
  readonly slotSize: number

  /** Takes `count` free slots, or as many as there are. Slots are 4096-aligned and keep stale bytes. */
  takeSlots(count: number): number[]
  /**
   * Takes neighbouring slots as one buffer, which is known by the first of them: slices of it are as long as all of them.
   * @param length  bytes it has at least
   * @returns undefined while there are none; always, when that is more than 8 slots
   */
  takeRun(length: number): number | undefined
  /**
   * A slot, or a run of them, for who takes one after the other and can wait for the next. The slots that are set apart are not
   * taken by themselves, so that neighbours come free there; half of them not at all, so that there is one for who cannot wait.
   * @param length  bytes it has at least
   * @param held    slots that the taker has: it gets another one while more than that are free; 0: any
   */
  takePiece(length: number, held?: number): number | undefined
  /** A run is given back as a whole, by its first slot. */
  giveSlots(slots: readonly number[]): void
  /** Calls once, when somebody has given slots back; somebody else may be faster. Must not throw. */
  whenGiven(call: () => void): void
  /** Gives all buffers back that nobody has taken; by itself the engine does so after some idle seconds. */
  trim(): void
  /** The bytes of a slot, or of a run, for codecs and tests. Valid until the slot is given back. */
  slotBytes(slot: number): Uint8Array

  open(path: string, flags: OpenFlags): Promise<FileId>
  close(file: FileId): Promise<number>
  /** Facts asked anew (fstat, capacity); -errno when that fails. */
  stat(file: FileId): Promise<FileFacts | number>
  /** Bytes of the file that are in the page cache, in whole pages; -errno where the kernel does not tell. */
  cached(file: FileId): Promise<number>
  /** Bytes read, short only at the end of the file (+ READ_ZERO, see ReadOptions). */
  read(
    file: FileId,
    offset: number,
    length: number,
    slot: number,
    slotOffset: number,
    options?: ReadOptions,
  ): Promise<number>
  /** Bytes written: always `length`, the engine goes on after a short write. */
  write(file: FileId, offset: number, length: number, slot: number, slotOffset: number): Promise<number>
  /**
   * Reads pieces that lie apart in the file; in memory they follow each other. All of them are there: a short one is an error.
   * @param atOnce  pieces under way at most
   * @returns the sum of the lengths (+ READ_ZERO when with `scan` all bytes of all pieces are zero), or what failed
   *          first; then no further piece was begun
   */
  readPieces(
    file: FileId,
    pieces: readonly Range[],
    slot: number,
    slotOffset: number,
    atOnce: number,
    options?: ReadOptions,
  ): Promise<number | PieceFailure>
  /** The same for writing. */
  writePieces(
    file: FileId,
    pieces: readonly Range[],
    slot: number,
    slotOffset: number,
    atOnce: number,
  ): Promise<number | PieceFailure>
  flush(file: FileId, dataOnly: boolean): Promise<number>
  /** ftruncate. `allocate` > 0: fallocate mode 0 over the new size first ('falloc'). */
  truncate(file: FileId, size: number, allocate?: boolean): Promise<number>
  /** ftruncate to nothing; what is written then is never copied on write where the file system would (FS_NOCOW_FL, Btrfs). */
  emptyWithoutCow(file: FileId): Promise<number>
  /**
   * Makes a file reach to the end of the range at least; it is not shortened, whoever else makes it longer meanwhile. New space
   * reads as zero; the range, which is not empty, is allocated where that is possible and the file had to grow.
   * @returns its size then
   */
  grow(file: FileId, offset: number, length: number): Promise<number>
  /** Reserves storage where there is none, behind the end of the file too; what is there stays, and so does the size. */
  allocate(file: FileId, offset: number, length: number): Promise<number>
  /** At most `limit` extents from `offset` on. The last may reach beyond offset + length: what was learned is not thrown away. */
  extents(file: FileId, offset: number, length: number, limit: number): Promise<ExtentList | number>
  /** The ladder of fast zeroing; capabilities that fail once are not tried again on this handle. Result: a ZeroRung. */
  zero(file: FileId, offset: number, length: number, options: ZeroOptions): Promise<number>
  discard(file: FileId, offset: number, length: number): Promise<number>
  /** copy_file_range, bytes copied (may be short). */
  copyRange(from: FileId, offset: number, to: FileId, toOffset: number, length: number): Promise<number>
  /** FICLONERANGE; 0 or -errno. */
  reflink(from: FileId, offset: number, to: FileId, toOffset: number, length: number): Promise<number>
  /** Open file description lock on bytes: 'read' (shared), 'write', 'unlock'. */
  lock(file: FileId, kind: 'read' | 'write' | 'unlock', offset: number, length: number): Promise<number>
  /** 1 when somebody else's lock conflicts with a write lock there, else 0. */
  lockedByOthers(file: FileId, offset: number, length: number): Promise<number>
  unlink(path: string): Promise<number>
  /** Takes the place of what has the name `to`; both lie in one file system. */
  rename(from: string, to: string): Promise<number>
  /**
   * Compresses unit by unit with the parameters of QEMU's qcow2. Computations run one per processor at most and let I/O
   * go first. `into` gets the size of each unit (32 bits, little-endian; 0: it does not get shorter, or there was no
   * room for it, and it is left out), then, from `start` on, the compressed units one behind the other.
   * @param from   must not overlap `into`
   * @param unit   bytes; the last one may be shorter
   * @param start  bytes, room enough for the sizes
   * @param into   what lies behind the result is undefined
   * @returns where the last unit ends in `into`; -EINVAL when `start` leaves no room; -ELIBACC when the machine has no
   *          libz.so.1 (libzstd.so.1)
   */
  compress(codec: Codec, from: SlotRanges, unit: number, start: number, into: SlotRanges): Promise<number>
  /**
   * The bytes [skip, skip + length of `into`) of what decompresses to `total` bytes. Straight into place when all are wanted.
   * @param from   compressed data; what follows it (up to the end of its sector) is ignored. Must not overlap `into`
   * @param total  bytes, 64 MiB at most. zlib: where more would come they are not looked at, as the format says; zstd: an error
   * @returns the length of `into`; -EIO when the data is damaged or gives fewer bytes (`into` is undefined then);
   *          -ELIBACC as above
   */
  decompress(codec: Codec, from: SlotRanges, total: number, skip: number, into: SlotRanges): Promise<number>

  /**
   * A digest of BLAKE2b with 32 bytes, step by step; see compress() for where it runs.
   * @param state  at least DIGEST_STATE bytes, kept from step to step; after the last the digest is in its first 32
   * @returns 0
   */
  digest(from: SlotRange, state: SlotRange, step: DigestStep): Promise<number>

  /** Serves an NBD client from a file until one of them has to come back; see lane-types.ts. */
  lane(terms: LaneTerms): Lane
  /** The same for a client of HTTP. */
  httpLane(terms: HttpLaneTerms): Lane

  /** The request that has been in the kernel longest. Who waits for a peer is left out: nothing is stuck there. */
  oldest(): StuckRequest | undefined
  stats(): EngineStats
  /**
   * Ends the engine: refuses new requests (-ECANCELED), waits for those in flight, closes every file. Who waits for what a
   * peer may send gets -ECANCELED; what is being sent is sent.
   * @param deadlineMs  after that, stuck tasks are left to themselves: their memory and descriptors stay until they return
   * @returns number of requests left behind
   */
  shutdown(deadlineMs: number): Promise<number>
}
