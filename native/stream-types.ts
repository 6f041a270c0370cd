// SPDX-License-Identifier: Apache-2.0
// What the engine promises about streams: sockets, pipes, terminals, and files read or written from front to end. Implemented by
// native/engine.ts. The rules of types.ts hold here too, and:
//
// - Requests of one direction on one stream are performed in the order they were made, one at a time, without waiting for
//   JavaScript in between: whoever queues several receives keeps the stream flowing. The directions do not wait for each other.
// - A stream that waits (for data, for a reader, for a connection) occupies one task and is woken by shutdownStream() and by the end of the engine.
//   It is not stuck: oldest() leaves it out, as long as it is not a file.
// - Such requests are past the limits of requests and bytes in flight. Those are there for storage: if what waits for a peer
//   counted, storage would wait for it too. The slots bound what streams take.
// - What a stream has come to stays so: after the end of the stream, or an error, every later request of that direction gets the
//   same answer.

import type { FileId, Range } from './types.js'

export type StreamAddress =
  | { readonly kind: 'unix'; readonly path: string }
  /**
   * Names are looked up by the task, and their addresses tried in turn. Without a host: every address of the machine to
   * listen at, the machine itself to connect to. Port 0 takes a free one.
   */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }

export interface StreamVerbs {
  /**
   * A copy of an open descriptor of this process, in the engine's own table: socket, pipe, terminal, device or file. It is
   * copied before the call returns: the descriptor may be closed then. Its flags stay as they are.
   */
  adopt(fd: number): Promise<FileId>
  /** Listens; a Unix socket is made with mode 0600 and its file stays until somebody unlinks it. */
  listen(address: StreamAddress): Promise<FileId>
  /** The port of a TCP listener; 0 of a Unix socket. */
  portOf(listener: FileId): Promise<number>
  /** The next connection. -ECANCELED after shutdownStream() and when the engine ends. */
  accept(listener: FileId): Promise<FileId>
  /** -EADDRNOTAVAIL when there is no such name; -ECANCELED when the engine ends meanwhile. */
  connect(address: StreamAddress): Promise<FileId>
  /**
   * Waits for data, then takes what comes until `length` bytes are there or nothing came for `lingerMs`; 0: what is there at once.
   * A file is read on from where its descriptor stands.
   * @param length  > 0
   * @returns bytes received, 0 at the end of the stream, or -errno; -ECANCELED after shutdownStream() and when the engine
   *          ends. What came before an end or an error is told first.
   */
  receive(stream: FileId, length: number, slot: number, slotOffset: number, lingerMs: number): Promise<number>
  /** Sends all of it. @returns `length`, or -errno: -EPIPE when the reader has gone (never a signal) */
  send(stream: FileId, length: number, slot: number, slotOffset: number): Promise<number>
  /**
   * Sends pages as records of a migration stream: before each page the eight bytes `offset | PAGE | CONTINUE` (big-endian),
   * before the first one `first` instead. Pages lie one behind the other in the slot.
   * @param pages     `[offset in the block, length]`, multiples of `pageSize`, at least one page
   * @param pageSize  a power of two, 1024 or more
   * @returns bytes of the pages, or -errno
   */
  sendPages(
    stream: FileId,
    pages: readonly Range[],
    pageSize: number,
    slot: number,
    slotOffset: number,
    first: Uint8Array,
  ): Promise<number>
  /**
   * Ends a direction now, and wakes who waits in it: requests under way and later ones get -ECANCELED. The peer of a socket learns
   * of it (shutdown(2)), whoever else shares the socket; of a pipe when it is closed. Works while a close waits, too.
   */
  shutdownStream(stream: FileId, direction: 'read' | 'write' | 'both'): void
}
