// SPDX-License-Identifier: Apache-2.0
// The I/O engine over the addon. Made by the composition roots, used by block drivers.
// What every verb promises stands in types.ts; this file only converts.

import { type NativeEngine, type Op, ops } from './binding.js'
import type { HttpLaneTerms, Lane, LaneTerms } from './lane-types.js'
import { lend, lendHttp } from './lanes.js'
import { RangeList } from './range-list.js'
import { Requests } from './requests.js'
import { Slots } from './slots.js'
import { startNative } from './start-native.js'
import type { ReceivedPackets, StreamAddress, StreamVerbs } from './stream-types.js'
import { Streams } from './streams.js'
import type {
  Codec,
  DigestStep,
  EngineKind,
  EngineOptions,
  EngineStats,
  ExtentList,
  FileFacts,
  FileId,
  IoEngine,
  OpenFlags,
  PieceFailure,
  Range,
  ReadOptions,
  SlotRange,
  SlotRanges,
  StuckRequest,
  ZeroOptions,
} from './types.js'
import { codecs, lockBits, openBits, ourPath, places, TruncateBit, withoutBits } from './words.js'

const ECANCELED = 125

/**
 * Starts an engine for the calling thread.
 * @throws Error when the system gives no thread or descriptor, or io_uring was demanded and is refused (`errno` says why)
 */
export function createEngine(options: EngineOptions): IoEngine {
  return new Engine(options)
}

const natives = new WeakMap<IoEngine, NativeEngine>()

/** For the other parts of native/ that work on the slots of an engine. */
export function nativeOf(engine: IoEngine): NativeEngine {
  const native = natives.get(engine)
  if (native === undefined) throw new TypeError('not an engine made by createEngine()')
  return native
}

class Engine implements IoEngine {
  readonly kind: EngineKind
  readonly slotSize: number
  readonly #native: NativeEngine
  readonly #requests = new Requests()
  readonly #files = new Set<FileId>()
  readonly #streams: Streams
  readonly #slots: Slots
  readonly #ranges = new RangeList()
  #ended: Promise<number> | undefined

  constructor(options: EngineOptions) {
    this.slotSize = options.slotSize ?? 1 << 20
    if (this.slotSize <= 0 || this.slotSize % 4096 !== 0)
      throw new RangeError('slotSize is a multiple of 4096')
    const native = startNative(options, this.slotSize, this.#requests.onFinished)
    this.kind = native.kind
    this.#native = native.engine
    this.#slots = new Slots(native.engine, this.slotSize, options)
    natives.set(this, native.engine)
    this.#streams = new Streams(native.engine, this.#requests, this.#files)
  }

  takeSlots(count: number): number[] {
    return this.#slots.take(count)
  }

  takeRun(length: number): number | undefined {
    return this.#slots.takeRun(length)
  }

  takePiece(length: number, held?: number): number | undefined {
    return this.#slots.takePiece(length, held)
  }

  giveSlots(slots: readonly number[]): void {
    this.#slots.give(slots)
  }

  whenGiven(call: () => void): void {
    this.#slots.whenGiven(call)
  }

  slotBytes(slot: number): Uint8Array {
    return this.#slots.bytes(slot)
  }

  async open(path: string, flags: OpenFlags): Promise<FileId> {
    const { mode = 0o644 } = flags
    const file = await this.#submitPath('open', ourPath(path), openBits(flags), mode, withoutBits(flags))
    if (file > 0) this.#files.add(file)
    return file
  }

  close(file: FileId): Promise<number> {
    this.#files.delete(file)
    return this.#submit('close', file)
  }

  stat(file: FileId): Promise<FileFacts | number> {
    return this.#submitFor<FileFacts>('stat', file)
  }

  cached(file: FileId): Promise<number> {
    return this.#submit('cached', file)
  }

  read(
    file: FileId,
    offset: number,
    length: number,
    slot: number,
    slotOffset: number,
    options?: ReadOptions,
  ): Promise<number> {
    return this.#submit('read', file, offset, length, slot, slotOffset, options?.scan === true ? 1 : 0)
  }

  write(file: FileId, offset: number, length: number, slot: number, slotOffset: number): Promise<number> {
    return this.#submit('write', file, offset, length, slot, slotOffset)
  }

  readPieces(
    file: FileId,
    pieces: readonly Range[],
    slot: number,
    slotOffset: number,
    atOnce: number,
    options?: ReadOptions,
  ): Promise<number | PieceFailure> {
    return this.#submitPieces('read', file, pieces, slot, slotOffset, options?.scan === true ? 1 : 0, atOnce)
  }

  writePieces(
    file: FileId,
    pieces: readonly Range[],
    slot: number,
    slotOffset: number,
    atOnce: number,
  ): Promise<number | PieceFailure> {
    return this.#submitPieces('write', file, pieces, slot, slotOffset, 0, atOnce)
  }

  flush(file: FileId, dataOnly: boolean): Promise<number> {
    return this.#submit('flush', file, 0, 0, 0, 0, dataOnly ? 1 : 0)
  }

  emptyWithoutCow(file: FileId): Promise<number> {
    return this.#submit('truncate', file, 0, 0, 0, 0, TruncateBit.noCow)
  }

  truncate(file: FileId, size: number, allocate = false): Promise<number> {
    return this.#submit('truncate', file, 0, size, 0, 0, allocate ? TruncateBit.allocate : 0)
  }

  grow(file: FileId, offset: number, length: number): Promise<number> {
    return this.#submit('grow', file, offset, length)
  }

  allocate(file: FileId, offset: number, length: number): Promise<number> {
    return this.#submit('allocate', file, offset, length)
  }

  extents(file: FileId, offset: number, length: number, limit: number): Promise<ExtentList | number> {
    return this.#submitFor<ExtentList>('extents', file, offset, length, limit)
  }

  zero(file: FileId, offset: number, length: number, options: ZeroOptions): Promise<number> {
    const bits = (options.unmap ? 1 : 0) | (options.fast ? 2 : 0)
    return this.#submit('zero', file, offset, length, 0, 0, bits)
  }

  discard(file: FileId, offset: number, length: number): Promise<number> {
    return this.#submit('discard', file, offset, length)
  }

  copyRange(from: FileId, offset: number, to: FileId, toOffset: number, length: number): Promise<number> {
    return this.#submit('copyRange', from, offset, length, to, toOffset)
  }

  reflink(from: FileId, offset: number, to: FileId, toOffset: number, length: number): Promise<number> {
    return this.#submit('reflink', from, offset, length, to, toOffset)
  }

  lock(file: FileId, kind: 'read' | 'write' | 'unlock', offset: number, length: number): Promise<number> {
    return this.#submit('lock', file, offset, length, 0, 0, lockBits[kind])
  }

  lockedByOthers(file: FileId, offset: number, length: number): Promise<number> {
    return this.#submit('lockedByOthers', file, offset, length)
  }

  unlink(path: string): Promise<number> {
    return this.#submitPath('unlink', path, 0, 0, 0)
  }

  rename(from: string, to: string): Promise<number> {
    return this.#submitPath('rename', from, 0, 0, 0, to)
  }

  compress(codec: Codec, from: SlotRanges, unit: number, start: number, into: SlotRanges): Promise<number> {
    return this.#submitCodec('compress', codec, unit, start, from, into)
  }

  decompress(codec: Codec, from: SlotRanges, total: number, skip: number, into: SlotRanges): Promise<number> {
    return this.#submitCodec('decompress', codec, total, skip, from, into)
  }

  digest(from: SlotRange, state: SlotRange, step: DigestStep): Promise<number> {
    const flags = (step.first ? 1 : 0) + (step.last ? 2 : 0)
    return this.#submitCodec('digest', 'zlib', 1, flags, from, state)
  }

  adopt(fd: number): Promise<FileId> {
    return this.#streams.adopt(fd)
  }

  listen(address: StreamAddress): Promise<FileId> {
    return this.#streams.listen(address)
  }

  portOf(listener: FileId): Promise<number> {
    return this.#streams.portOf(listener)
  }

  accept(listener: FileId): Promise<FileId> {
    return this.#streams.accept(listener)
  }

  connect(address: StreamAddress): Promise<FileId> {
    return this.#streams.connect(address)
  }

  receive(
    stream: FileId,
    length: number,
    slot: number,
    slotOffset: number,
    lingerMs: number,
  ): Promise<number> {
    return this.#streams.receive(stream, length, slot, slotOffset, lingerMs)
  }

  receivePackets(...of: Parameters<StreamVerbs['receivePackets']>): Promise<ReceivedPackets | number> {
    return this.#streams.receivePackets(...of)
  }

  send(stream: FileId, length: number, slot: number, slotOffset: number): Promise<number> {
    return this.#streams.send(stream, length, slot, slotOffset)
  }

  sendPages(...of: Parameters<StreamVerbs['sendPages']>): Promise<number> {
    return this.#streams.sendPages(...of)
  }

  sendFilePages(...of: Parameters<StreamVerbs['sendFilePages']>): Promise<number | PieceFailure> {
    return this.#streams.sendFilePages(...of)
  }

  sendFile(...of: Parameters<StreamVerbs['sendFile']>): Promise<number | PieceFailure> {
    return this.#streams.sendFile(...of)
  }

  drain(stream: FileId): Promise<number> {
    return this.#streams.drain(stream)
  }

  shutdownStream(stream: FileId, direction: 'read' | 'write' | 'both'): void {
    this.#streams.shutdownStream(stream, direction)
  }

  lane(terms: LaneTerms): Lane {
    return lend(this.#native, this.#requests, terms)
  }

  httpLane(terms: HttpLaneTerms): Lane {
    return lendHttp(this.#native, this.#requests, terms)
  }

  oldest(): StuckRequest | undefined {
    const found = this.#native.oldest()
    if (found === undefined) return undefined
    const [op, file, ageMs] = found
    return { op: ops[op] ?? 'unknown', file, ageMs }
  }

  stats(): EngineStats {
    const [requests, bytes, tasks, slotsInUse, slotsMapped] = this.#native.stats()
    return { requests, bytes, tasks, slotsInUse, slotsMapped }
  }

  shutdown(deadlineMs: number): Promise<number> {
    this.#ended ??= this.#end(deadlineMs)
    return this.#ended
  }

  async #end(deadlineMs: number): Promise<number> {
    const closes = [...this.#files].map(
      (file) => (id: number) => this.#native.submit(ops.indexOf('close'), id, file, 0, 0, 0, 0, 0),
    )
    this.#files.clear()
    this.#native.endReading()
    await this.#requests.end(deadlineMs, closes)
    this.#slots.end()
    this.#native.stop()
    return this.#requests.abandon()
  }

  #submit(op: Op, file: FileId, offset = 0, length = 0, a = 0, b = 0, flags = 0): Promise<number> {
    return this.#requests.send((id) =>
      this.#native.submit(ops.indexOf(op), id, file, offset, length, a, b, flags),
    )
  }

  #submitPieces(
    op: 'read' | 'write',
    file: FileId,
    pieces: readonly Range[],
    slot: number,
    slotOffset: number,
    flags: number,
    atOnce: number,
  ): Promise<number | PieceFailure> {
    const [list, count, number] = [this.#ranges.list(pieces), pieces.length, ops.indexOf(op)]
    return this.#requests.sendFor<number | PieceFailure>(
      (id) => this.#native.submitPieces(number, id, file, list, slot, slotOffset, flags, atOnce, count),
      (result, piece) => (result < 0 ? { result, piece: typeof piece === 'number' ? piece : 0 } : result),
      { result: -ECANCELED, piece: 0 },
    )
  }

  #submitPath(
    op: Op,
    path: string,
    flags: number,
    mode: number,
    without: number,
    toPath = '',
  ): Promise<number> {
    return this.#requests.send((id) =>
      this.#native.submitPath(ops.indexOf(op), id, path, flags, mode, without, toPath),
    )
  }

  #submitCodec(
    op: Op,
    codec: Codec,
    total: number,
    skip: number,
    from: SlotRanges,
    into: SlotRanges,
  ): Promise<number> {
    const [opNumber, number] = [ops.indexOf(op), codecs.indexOf(codec)]
    return this.#requests.send((id) =>
      this.#native.submitCodec(opNumber, id, number, total, skip, places(from), places(into)),
    )
  }

  /** For the verbs whose success is a value and not a number. */
  #submitFor<Value>(op: Op, file: FileId, offset = 0, length = 0, a = 0): Promise<Value | number> {
    return this.#requests.sendFor<Value | number>(
      (id) => this.#native.submit(ops.indexOf(op), id, file, offset, length, a, 0, 0),
      (result, value) => (result < 0 ? result : (value as Value)),
      -ECANCELED,
    )
  }

  trim(): void {
    this.#slots.trimAll()
  }
}
