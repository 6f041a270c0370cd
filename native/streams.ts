// SPDX-License-Identifier: Apache-2.0
// The engine's verbs of streams over the addon. Made and used by engine.ts; what they promise stands in stream-types.ts.

import { type NativeEngine, type Op, ops } from './binding.js'
import { RangeList } from './range-list.js'
import type { Requests } from './requests.js'
import type { FilePart, ReceivedPackets, StreamAddress, StreamVerbs } from './stream-types.js'
import type { FileId, PieceFailure, Range } from './types.js'

const ECANCELED = 125
const NO_HEADS = new Uint8Array()
/** Same bits as in src/stream.h. */
const shutBits = { read: 1, write: 2, both: 3 } as const

export class Streams implements StreamVerbs {
  readonly #native: NativeEngine
  readonly #requests: Requests
  readonly #files: Set<FileId>
  readonly #ranges = new RangeList()

  /** @param files  the open files of the engine, where new ones are added */
  constructor(native: NativeEngine, requests: Requests, files: Set<FileId>) {
    this.#native = native
    this.#requests = requests
    this.#files = files
  }

  adopt(fd: number): Promise<FileId> {
    return this.#opened(this.#submit('adopt', 0, fd))
  }

  listen(address: StreamAddress): Promise<FileId> {
    return this.#opened(this.#submitAddress('listen', address))
  }

  portOf(listener: FileId): Promise<number> {
    return this.#submit('portOf', listener)
  }

  accept(listener: FileId): Promise<FileId> {
    return this.#opened(this.#submit('accept', listener))
  }

  connect(address: StreamAddress): Promise<FileId> {
    return this.#opened(this.#submitAddress('connect', address))
  }

  receive(
    stream: FileId,
    length: number,
    slot: number,
    slotOffset: number,
    lingerMs: number,
  ): Promise<number> {
    return this.#submit('receive', stream, lingerMs, length, slot, slotOffset)
  }

  receivePackets(
    stream: FileId,
    length: number,
    slot: number,
    slotOffset: number,
    lingerMs: number,
    pageSize: number,
  ): Promise<ReceivedPackets | number> {
    const op = ops.indexOf('receive')
    return this.#requests.sendFor<ReceivedPackets | number>(
      (id) => this.#native.submit(op, id, stream, lingerMs, length, slot, slotOffset, pageSize),
      (result, heads) => {
        if (heads instanceof Uint8Array) return { length: result, heads }
        return result > 0 ? { length: result, heads: NO_HEADS } : result
      },
      -ECANCELED,
    )
  }

  send(stream: FileId, length: number, slot: number, slotOffset: number): Promise<number> {
    return this.#submit('send', stream, 0, length, slot, slotOffset)
  }

  sendPages(
    stream: FileId,
    pages: readonly Range[],
    pageSize: number,
    slot: number,
    slotOffset: number,
    first: Uint8Array,
  ): Promise<number> {
    const list = this.#ranges.list(pages)
    const op = ops.indexOf('send')
    return this.#requests.send((id) =>
      this.#native.submitPages(op, id, stream, list, pages.length, pageSize, slot, slotOffset, first),
    )
  }

  sendFilePages(
    stream: FileId,
    pages: readonly Range[],
    pageSize: number,
    file: FileId,
    offset: number,
    first: Uint8Array,
  ): Promise<number | PieceFailure> {
    const list = this.#ranges.list(pages)
    const op = ops.indexOf('sendFilePages')
    return this.#sendOf((id) =>
      this.#native.submitPages(op, id, stream, list, pages.length, pageSize, file, offset, first),
    )
  }

  sendFile(
    stream: FileId,
    file: FileId,
    parts: readonly FilePart[],
    slot: number,
    slotOffset: number,
  ): Promise<number | PieceFailure> {
    const list = Float64Array.from(parts.flatMap(({ head, offset, length }) => [head, offset, length]))
    const op = ops.indexOf('sendFile')
    return this.#sendOf((id) =>
      this.#native.submitFile(op, id, file, stream, list, parts.length, slot, slotOffset),
    )
  }

  drain(stream: FileId): Promise<number> {
    return this.#submit('drain', stream)
  }

  shutdownStream(stream: FileId, direction: keyof typeof shutBits): void {
    this.#native.shutStream(stream, shutBits[direction])
  }

  /** What may fail for a part of a file, which is told then. */
  #sendOf(submit: (id: number) => number): Promise<number | PieceFailure> {
    return this.#requests.sendFor<number | PieceFailure>(
      submit,
      (result, part) => (typeof part === 'number' ? { result, piece: part } : result),
      -ECANCELED,
    )
  }

  async #opened(asked: Promise<number>): Promise<FileId> {
    const file = await asked
    if (file > 0) this.#files.add(file)
    return file
  }

  #submitAddress(op: Op, address: StreamAddress): Promise<number> {
    const [name, kind, port] =
      address.kind === 'unix' ? [address.path, 0, 0] : [address.host, 1, address.port]
    return this.#requests.send((id) => this.#native.submitPath(ops.indexOf(op), id, name, kind, port, 0, ''))
  }

  #submit(op: Op, file: FileId, offset = 0, length = 0, slot = 0, slotOffset = 0): Promise<number> {
    return this.#requests.send((id) =>
      this.#native.submit(ops.indexOf(op), id, file, offset, length, slot, slotOffset, 0),
    )
  }
}
