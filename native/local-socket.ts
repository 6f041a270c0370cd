// SPDX-License-Identifier: Apache-2.0
// A connected Unix stream socket over which descriptors can come: a Duplex like net.Socket, which reads with read(2) and so
// loses them. Used by the control plane for its local clients.
// Rules: one read of 64 KiB a turn of the loop; descriptors are told of before the bytes they came with, and closed when
// nobody listens; it keeps the loop alive while it reads or waits to write, as net.Socket does.

import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { getSystemErrorName } from 'node:util'
import { addon, type NativeLocalSocket } from './binding.js'
import { closeDescriptor, duplicate, isLocalStream } from './descriptors.js'

const EAGAIN = -11
const ENOTCONN = -107
const ECANCELED = -125
/** Sends in one turn of the loop: a peer that reads as fast as we write must not keep us. */
const SENDS = 16

export interface LocalSocketOptions {
  /** As in net.Socket: our side stays open after the peer ended its own. Default false. */
  readonly allowHalfOpen?: boolean
  readonly highWaterMark?: number
}

type Done = (error?: Error | null) => void

/** A write under way. */
interface Writing {
  readonly pieces: readonly Uint8Array[]
  readonly done: Done
  /** What was not sent yet: from byte `offset` of piece `index` on. */
  index: number
  offset: number
}

/**
 * Events beside those of a Duplex: `descriptors` (numbers, position), the listener's to close; what follows byte `position`
 * of everything received came with them.
 */
export class LocalSocket extends Duplex {
  readonly #native: NativeLocalSocket
  /** The stream wants more bytes. */
  #wanted = false
  #held = false
  #writing: Writing | undefined
  #received = 0
  #watched = 0

  /**
   * @param fd  a connected Unix stream socket, owned from now on
   * @throws Error with `errno`; then the descriptor is closed
   */
  constructor(fd: number, options: LocalSocketOptions = {}) {
    const { allowHalfOpen = false, highWaterMark } = options
    super({ allowHalfOpen, ...(highWaterMark !== undefined && { highWaterMark }) })
    this.#native = new addon.LocalSocket(
      fd,
      (result, passed) => this.#onRead(result, passed),
      () => this.#onWritable(),
    )
  }

  /**
   * Takes a connection over from a net.Socket that has read nothing; that one is destroyed. Node tells the number of a
   * socket's descriptor in its handle only; where that is not so, connections stay net.Sockets and no descriptors come.
   * @returns undefined, and nothing is changed, when it is no Unix stream socket
   * @throws Error with `errno` when there is no descriptor left; the connection is closed then
   */
  static takeOver(socket: Socket, options: LocalSocketOptions = {}): LocalSocket | undefined {
    const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1
    if (fd < 0 || !isLocalStream(fd)) return undefined
    const own = duplicate(fd)
    socket.destroy()
    if (own < 0) throw failure('dup', own)
    return new LocalSocket(own, options)
  }

  /** While held nothing is read from the connection, whatever the stream wants. */
  hold(held: boolean): void {
    this.#held = held
    this.#watch()
  }

  /**
   * Sends one message with descriptors at once, all of it or its beginning.
   * @param passed  stay the caller's
   * @returns bytes sent, or -errno; -EAGAIN also while earlier writes wait
   */
  sendPassing(bytes: Uint8Array, passed: readonly number[]): number {
    return this.writableLength > 0 ? EAGAIN : this.#native.send([bytes], 0, 0, passed)
  }

  override _read(): void {
    this.#wanted = true
    this.#watch()
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: Done): void {
    this.#send({ pieces: [chunk], done, index: 0, offset: 0 })
  }

  override _writev(chunks: { chunk: Uint8Array }[], done: Done): void {
    this.#send({ pieces: chunks.map(({ chunk }) => chunk), done, index: 0, offset: 0 })
  }

  override _final(done: Done): void {
    const result = this.#native.shutdown()
    done(result === 0 || result === ENOTCONN ? null : failure('shutdown', result))
  }

  override _destroy(error: Error | null, done: Done): void {
    this.#native.close()
    const writing = this.#writing
    this.#writing = undefined
    writing?.done(error ?? failure('write', ECANCELED))
    done(error)
  }

  #onRead(result: Buffer | number, passed: number): void {
    if (passed > 0) this.#pass(this.#native.takePassed())
    if (this.destroyed) return
    if (typeof result !== 'number') {
      this.#received += result.length
      this.#wanted = this.push(result)
    } else if (result === 0) {
      this.#wanted = false
      this.push(null)
    } else if (result !== EAGAIN) {
      this.destroy(failure('read', result))
      return
    }
    this.#watch()
  }

  #pass(descriptors: readonly number[]): void {
    if (this.emit('descriptors', descriptors, this.#received)) return
    for (const fd of descriptors) closeDescriptor(fd)
  }

  #onWritable(): void {
    const writing = this.#writing
    this.#writing = undefined
    if (writing === undefined) this.#watch()
    else this.#send(writing)
  }

  /** Sends what the socket takes now; the rest when it takes more. */
  #send(writing: Writing): void {
    for (let sends = 0; sends < SENDS; sends++) {
      const result = this.#native.send(writing.pieces, writing.index, writing.offset)
      if (result === EAGAIN) break
      if (result < 0) {
        writing.done(failure('write', result))
        return
      }
      if (advance(writing, result)) {
        this.#watch()
        writing.done()
        return
      }
    }
    this.#writing = writing
    this.#watch()
  }

  #watch(): void {
    if (this.destroyed) return
    const readable = this.#wanted && !this.#held
    const writable = this.#writing !== undefined
    const watched = (readable ? 1 : 0) | (writable ? 2 : 0)
    if (watched === this.#watched) return
    this.#watched = watched
    this.#native.watch(readable, writable)
  }
}

/** @returns whether all is sent */
function advance(writing: Writing, sent: number): boolean {
  let left = sent
  while (writing.index < writing.pieces.length) {
    const rest = (writing.pieces[writing.index] as Uint8Array).length - writing.offset
    if (left < rest) {
      writing.offset += left
      return false
    }
    left -= rest
    writing.index++
    writing.offset = 0
  }
  return true
}

/** An error as Node makes them. @param result  -errno */
function failure(syscall: string, result: number): NodeJS.ErrnoException {
  const code = getSystemErrorName(result)
  return Object.assign(new Error(`${syscall} ${code}`), { errno: result, code, syscall })
}
