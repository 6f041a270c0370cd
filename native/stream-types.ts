// SPDX-License-Identifier: Apache-2.0
// What the addon promises about streams (sockets, pipes, terminals, and files read or written from front to end) and about the
// bytes of VM memory in them. Implemented by native/engine.ts and native/page-scanner.ts; used by daemon/memory. The rules of types.ts hold here too, and:
//
// - Requests of one direction on one stream are performed in the order they were made, one at a time, without waiting for
//   JavaScript in between: whoever queues several receives keeps the stream flowing. The directions do not wait for each other.
// - A stream that waits (for data, for a reader, for a connection) occupies one task and is woken by shutdownStream() and by the end of the engine.
//   It is not stuck: oldest() leaves it out, as long as it is not a file.
// - Such requests are past the limits of requests and bytes in flight. Those are there for storage: if what waits for a peer
//   counted, storage would wait for it too. The slots bound what streams take.
// - What a stream has come to stays so: after the end of the stream, or an error, every later request of that direction gets the
//   same answer.

import type { FileId, PieceFailure, Range } from './types.js'

export type StreamAddress =
  | { readonly kind: 'unix'; readonly path: string }
  /**
   * Names are looked up by the task, and their addresses tried in turn. Without a host: every address of the machine to
   * listen at, the machine itself to connect to. Port 0 takes a free one.
   */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }

/** A range of a file and, in front of it, bytes of a slot. */
export interface FilePart extends Range {
  /** Bytes. */
  readonly head: number
}

export interface ReceivedPackets {
  /** Bytes of data in the slot; there may be none. */
  readonly length: number
  /** One behind the other; where the stream ends within one, so much of it. The first data are of the packet before the first. */
  readonly heads: Uint8Array
}

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
  /**
   * The same of a channel of multifd, behind its hello, on a socket: data of packets go to the slot, without what stands between
   * them. Ends before a packet that does not fit any more and behind a sync point, and if it can between two pages.
   * @param pageSize  of the packets, the same in all such requests of a stream
   * @returns what came, 0 at the end of the stream, or -errno
   */
  receivePackets(
    stream: FileId,
    length: number,
    slot: number,
    slotOffset: number,
    lingerMs: number,
    pageSize: number,
  ): Promise<ReceivedPackets | number>
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
   * The same for pages that lie in a file as in their block. They are copied once, from the page cache to the stream; where they are
   * not in it, the task waits for their storage.
   * @param offset  where the block begins in the file
   * @returns bytes of the pages; -errno of the stream; or which of the ranges could not be read, -EIO where the file ends. Then the
   *          stream has ended too.
   */
  sendFilePages(
    stream: FileId,
    pages: readonly Range[],
    pageSize: number,
    file: FileId,
    offset: number,
    first: Uint8Array,
  ): Promise<number | PieceFailure>
  /**
   * Sends ranges of a file over a Unix socket that the engine listened for or connected. Nothing is copied here: what the peer has
   * not read yet is the file, and changes with it; but a file whose file system has no sendfile(2) is read and sent. Where the
   * file is not in the page cache, the task waits for its storage.
   * @param parts  sent in this order; their heads lie one behind the other in the slot
   * @returns bytes sent, heads included; -errno of the stream, -EOPNOTSUPP for others; or which part of the file could not be
   *          read, -EIO where it ends. Then the stream has ended too: nothing may follow in the place of what is missing.
   */
  sendFile(
    stream: FileId,
    file: FileId,
    parts: readonly FilePart[],
    slot: number,
    slotOffset: number,
  ): Promise<number | PieceFailure>
  /**
   * Waits until the peer of such a socket has read every page of a file that was sent, or has gone. The last request of a stream:
   * there is next to no room in it afterwards. @returns 0 or -errno
   */
  drain(stream: FileId): Promise<number>
  /**
   * Ends a direction now, and wakes who waits in it: requests under way and later ones get -ECANCELED. The peer of a socket learns
   * of it (shutdown(2)), whoever else shares the socket; of a pipe when it is closed. Works while a close waits, too.
   */
  shutdownStream(stream: FileId, direction: 'read' | 'write' | 'both'): void
}

/** A block of RAM as a scanner fills it. */
export interface ScannedBlock {
  readonly name: string
  /** Bytes, a multiple of the page size. */
  readonly length: number
  /** Offset in the target file of the block's first page, bytes. */
  readonly place: number
  /** Bit n (of byte n / 8, from the lowest): page n is there and not zero. Written by scan(); must stay where it is. */
  readonly bitmap: Uint8Array
  /** CRC-32C of each page by number, where they are wanted; a page that came as a delta keeps its last. As above. */
  readonly digests?: Uint32Array
}

/** 'gather': pages are copied to be written. 'check': they are looked at and left; there is never a 'full' or 'order' then. */
export type ScanMode = 'gather' | 'check'

export type ScanStop =
  /** All of the input was taken, perhaps within a record. */
  | 'input'
  /** No room for another page: take() what was gathered, give another slot. */
  | 'full'
  /**
   * The next page of data does not lie behind the last one, in the order of blocks and offsets: what was gathered must be in its
   * place before scan() goes on. The page is not touched yet; the next scan() takes it, and a new walk begins. Whether it will
   * turn out to be all zero is not known then. The pages of one packet of multifd come in any order: there the packet counts.
   */
  | 'order'
  /** EOS of the section's body. */
  | 'end'
  /** A sync point of multifd, behind the pages that belong before it. */
  | 'sync'
  /** delta() has an XBZRLE record. Bit and digest of its page are left to whoever applies it. */
  | 'delta'
  /** problem() says what is wrong; the scanner is of no more use. */
  | 'bad'

export interface ScanResult {
  /** Bytes of the input taken. */
  readonly taken: number
  readonly stop: ScanStop
}

export interface ScanCounts {
  /** Records, pages of multifd packets included. */
  readonly zero: number
  readonly normal: number
  readonly delta: number
  /** Pages sent as data that were all zero; only gathering looks. They are among `normal`. */
  readonly foundZero: number
  /** Walks over RAM that began because a page did not lie behind the last one. */
  readonly walks: number
}

/** Synchronous: runs on the calling thread, for about 100 µs per MiB of pages. */
export interface PageScanner {
  /**
   * Where pages are gathered from now on: a whole slot, empty. Not to check only.
   * @throws RangeError  when the slot is not taken, or take() has not been called since the last one
   */
  gatherInto(slot: number): void
  /** Page records in the input. @throws RangeError when that is no part of a slot that is taken */
  scan(slot: number, offset: number, length: number): ScanResult
  /**
   * What was gathered: places in the target file; in the slot they follow each other from its start, `length` bytes.
   * Then nothing is gathered, and there is no slot. Possible at any time: a page of which a part has come stays here.
   */
  take(): { readonly pieces: readonly Range[]; readonly length: number }
  /** @returns a copy, after the stop 'delta'. Block: its number among those given. */
  delta(): { readonly block: number; readonly offset: number; readonly bytes: Uint8Array }
  problem(): string
  counts(): ScanCounts
  /** Whether records of that block came, by its place in the list. */
  seen(block: number): boolean
  /** Whether a record or packet has begun and not ended: then the end of the stream is not a good one. */
  within(): boolean
}

export interface ApartResult extends ScanResult {
  /** Bytes of the heads taken. */
  readonly headsTaken: number
}

/** Packets of one multifd channel, behind its hello. */
export interface ChannelScanner extends PageScanner {
  /**
   * scan() of packets that were received apart from their heads.
   * @param from  where the heads begin that were not taken yet, bytes
   */
  scanApart(slot: number, offset: number, length: number, heads: Uint8Array, from: number): ApartResult
  /**
   * Whether the slot that was received into may itself be the one of gatherInto(): what is scanned next then is all of it, from
   * its start, and nothing is copied. Never before it is known that pages come plain.
   */
  inPlace(): boolean
  /** Number of sync packets so far. */
  readonly syncs: number
}
