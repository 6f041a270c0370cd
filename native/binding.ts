// SPDX-License-Identifier: Apache-2.0
// Loads the addon and says what it exports. Used by the other files of native/ only.
// The shapes here and native/src/*-object.h and binding.cc change together.

import { createRequire } from 'node:module'

/** Same order as Op in src/request.h. */
export const ops = [
  'open',
  'close',
  'stat',
  'read',
  'write',
  'flush',
  'truncate',
  'extents',
  'zero',
  'discard',
  'copyRange',
  'reflink',
  'lock',
  'lockedByOthers',
  'unlink',
  'rename',
  'allocate',
  'compress',
  'decompress',
  'digest',
  'adopt',
  'listen',
  'portOf',
  'accept',
  'connect',
  'receive',
  'send',
  'lane',
  'cached',
  'grow',
  'sendFile',
  'drain',
  'sendFilePages',
] as const
export type Op = (typeof ops)[number]

/** `[id, result, id, result, …]` (`count` pairs), and `[id, value, id, value, …]` where a verb adds something. */
export type OnFinished = (pairs: Float64Array, count: number, extras: readonly unknown[]) => void

export interface NativeEngine {
  /** 0, or -errno when the request was refused and nothing will be reported. */
  submit(
    op: number,
    id: number,
    file: number,
    offset: number,
    length: number,
    a: number,
    b: number,
    flags: number,
  ): number
  /** Pieces are `[offset, length, …]`, `count` pairs. The value of a failed one is the number of the piece that failed. */
  submitPieces(
    op: number,
    id: number,
    file: number,
    pieces: Float64Array,
    slot: number,
    slotOffset: number,
    flags: number,
    atOnce: number,
    count: number,
  ): number
  /**
   * Pages are `[offset in the block, length, …]`, `count` pairs.
   * @param from  slot of a send, file of a sendFilePages
   */
  submitPages(
    op: number,
    id: number,
    stream: number,
    pages: Float64Array,
    count: number,
    pageSize: number,
    from: number,
    fromOffset: number,
    first: Uint8Array,
  ): number
  /** Parts are `[bytes of the slot, offset, length, …]`, `count` of them. The value of a failed file is the part's number. */
  submitFile(
    op: number,
    id: number,
    file: number,
    stream: number,
    parts: Float64Array,
    count: number,
    slot: number,
    slotOffset: number,
  ): number
  /**
   * listen and connect: `path` is a Unix socket's (flags 0) or a host (flags 1) and `mode` the port.
   * @param toPath  of rename; else empty
   */
  submitPath(
    op: number,
    id: number,
    path: string,
    flags: number,
    mode: number,
    without: number,
    toPath: string,
  ): number
  /** Places are `[slot, offset, length, …]`. */
  submitCodec(
    op: number,
    id: number,
    codec: number,
    total: number,
    skip: number,
    from: readonly number[],
    into: readonly number[],
  ): number
  /** The value is `[received, unsent, places, …counts]`, counts as of laneCounts(). */
  submitLane(
    op: number,
    id: number,
    file: number,
    stream: number,
    slot: number,
    slotOffset: number,
    room: number,
    length: number,
    style: number,
    writable: boolean,
    align: number,
    idleMs: number,
  ): number
  /** As submitLane. @param texts  three of the head, three of the reply */
  submitHttpLane(
    op: number,
    id: number,
    file: number,
    stream: number,
    slot: number,
    slotOffset: number,
    room: number,
    length: number,
    each: number,
    writes: boolean,
    idleMs: number,
    dateAt: number,
    texts: readonly Uint8Array[],
  ): number
  /** `[reads, readBytes, writes, writeBytes, from, to]`; nothing but 0 when there is no such lane any more. */
  laneCounts(id: number): number[]
  /** @param redo  a write under way is not answered */
  callBack(id: number, redo: boolean): void
  /** @param among  of so many slots, the first ones */
  takeSlots(count: number, among: number): number[]
  takeRun(count: number, among: number): number | undefined
  giveSlots(slots: readonly number[]): void
  groupBytes(group: number): ArrayBuffer | undefined
  /** Gives idle groups of slots back; the number of slots that stay mapped. */
  trim(): number
  oldest(): readonly [op: number, file: number, ageMs: number] | undefined
  stats(): readonly [requests: number, bytes: number, tasks: number, slotsInUse: number, slotsMapped: number]
  /** Bits: 1 read, 2 write. */
  shutStream(file: number, directions: number): void
  /** Nobody waits any more for what peers send, or for connections: those who do get -ECANCELED. */
  endReading(): void
  stop(): void
}

/** Not the pages' bytes, which stay in slots. What the numbers mean stands in src/scanner-object.h. */
export interface NativeScanner {
  gatherInto(slot: number): boolean
  scan(slot: number, offset: number, length: number): number
  scanApart(
    slot: number,
    offset: number,
    length: number,
    heads: Uint8Array,
    from: number,
  ): readonly [taken: number, headsTaken: number, stop: number] | undefined
  inPlace(): boolean
  take(): readonly [pieces: number, length: number]
  delta(): readonly [block: number, offset: number, bytes: Uint8Array]
  problem(): string
  seen(block: number): boolean
  counts(): readonly [zero: number, normal: number, delta: number, foundZero: number, walks: number]
  within(): boolean
  syncs(): number
}

export interface NativeLog {
  write(text: string): boolean
  flush(ms: number): boolean
  dropped(): number
}

export interface NativeLocalSocket {
  /**
   * Sends from `offset` of piece `index` on.
   * @param passed  descriptors that go along; they stay the caller's
   * @returns bytes, or -errno
   */
  send(pieces: readonly Uint8Array[], index: number, offset: number, passed?: readonly number[]): number
  /** Inside onRead: the descriptors that came. Those that are not taken there are closed. */
  takePassed(): number[]
  watch(readable: boolean, writable: boolean): void
  /** 0 or -errno. */
  shutdown(): number
  close(): void
}

export interface NativeWire {
  /** Bytes put into [from, to), 0 at the end, or -errno. */
  receive(into: Uint8Array, from: number, to: number): number
  /** As of NativeLocalSocket. */
  send(pieces: readonly Uint8Array[], index: number, offset: number): number
  watch(readable: boolean, writable: boolean): void
  /** 0 or -errno. */
  shutdown(): number
  close(): void
  /** The descriptor, the caller's now, or -errno; closed for this object in any case. */
  release(): number
}

export interface NativeDescriptors {
  /** O_RDONLY, O_WRONLY, O_RDWR or -errno. */
  accessMode(fd: number): number
  duplicate(fd: number): number
  referenceTo(fd: number): number
  isLocalStream(fd: number): boolean
  /** The descriptor or -errno. */
  listenLocal(path: string): number
  /** Two descriptors or -errno. */
  localPair(): readonly [number, number] | number
  close(fd: number): void
}

interface Addon {
  readonly Engine: new (
    kind: string,
    slotSize: number,
    maxSlots: number,
    maxRequests: number,
    maxBytes: number,
    onFinished: OnFinished,
  ) => NativeEngine
  readonly Scanner: new (
    engine: NativeEngine,
    ofChannel: boolean,
    pageSize: number,
    blocks: readonly unknown[],
    gather: boolean,
    pieces: Float64Array,
  ) => NativeScanner
  readonly Log: new (fd: number, room: number) => NativeLog
  /** `onRead`: bytes, 0 at the end or -errno, and how many descriptors came with them. */
  readonly LocalSocket: new (
    fd: number,
    onRead: (result: Buffer | number, passed: number) => void,
    onWritable: () => void,
  ) => NativeLocalSocket
  readonly Wire: new (fd: number, onReady: (readable: boolean, writable: boolean) => void) => NativeWire
  readonly Descriptors: new () => NativeDescriptors
  /** False in sanitizer builds: tasks are ordinary threads, and a stuck one holds up the end of the process. */
  readonly ownGroups: boolean
  exitNow(code: number): never
  pageBits(
    engine: NativeEngine,
    slot: number,
    offset: number,
    length: number,
    pageSize: number,
  ): Uint8Array | undefined
  pageDigests(
    engine: NativeEngine,
    slot: number,
    offset: number,
    length: number,
    pageSize: number,
    digests: Uint32Array,
    first: number,
  ): boolean
  pageDifferences(
    engine: NativeEngine,
    slot: number,
    other: number,
    length: number,
    pageSize: number,
  ): Uint8Array | undefined
  crc32c(bytes: Uint8Array, byTable: boolean, before: number): number
  notify(address: string, text: string): number
  schedule(throughput: boolean): number
}

/** BLOCKFERRY_ADDON names another build of the addon (the sanitizers'). */
function load(): Addon {
  return createRequire(import.meta.url)(process.env.BLOCKFERRY_ADDON ?? '#addon') as Addon
}

export const addon: Addon = load()
