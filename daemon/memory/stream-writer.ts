// SPDX-License-Identifier: Apache-2.0
// The bytes of a stream on their way out: to a connection, or to a file. Used by StreamSink.

import type { FileId, Range } from '../../native/types.js'
import { RamFlag } from '../../protocol/migration/ram-flags.js'
import { IoError } from '../errors.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import type { CopySink } from './copy-sink.js'
import type { FileBytes } from './file-bytes.js'
import type { Slots } from './slots.js'

/** Pages of one block. */
interface Pages {
  /** In the block, multiples of the page size. */
  readonly ranges: readonly Range[]
  /** The record's beginning in front of the first page; the others get `offset | PAGE | CONTINUE`. */
  readonly first: Uint8Array
}

/** They lie one behind the other in a slot. */
export interface PageRun extends Pages {
  readonly slot: number
  /** Bytes from the start of the slot. */
  readonly slotOffset: number
}

/** They lie in a file as in the block. */
export interface FileRun extends Pages {
  readonly file: FileBytes
  /** Where the block begins in the file, bytes. */
  readonly offset: number
}

export interface StreamWriter {
  /** The bytes are the writer's. */
  bytes(bytes: Uint8Array): Promise<void>
  /** The slot may be used again when this answers. */
  pages(run: PageRun, pageSize: number): Promise<void>
  /** The same for pages that need not be read into a slot. Only who copies them once can. */
  filePages?(run: FileRun, pageSize: number): Promise<void>
  /** Everything is out. */
  flush(): Promise<void>
  drop(): Promise<void>
}

/** To a connection. Requests are made in the order of the calls; several are under way, so that the engine sends on by itself. */
export class ConnectionWriter implements StreamWriter {
  readonly #slots: Slots
  readonly #stream: FileId
  readonly #name: string
  readonly #pool = new TaskPool(4)
  /** The last call has made its requests. Never rejects. */
  #line: Promise<unknown> = Promise.resolve()

  constructor(slots: Slots, stream: FileId, name: string) {
    this.#slots = slots
    this.#stream = stream
    this.#name = name
  }

  bytes(bytes: Uint8Array): Promise<void> {
    return this.#inLine(() => this.#sendBytes(bytes))
  }

  pages({ slot, slotOffset, ranges, first }: PageRun, pageSize: number): Promise<void> {
    const { engine } = this.#slots
    return this.#send(() => engine.sendPages(this.#stream, ranges, pageSize, slot, slotOffset, first))
  }

  filePages({ file, offset, ranges, first }: FileRun, pageSize: number): Promise<void> {
    return this.#send(() => file.sendPagesTo(this.#stream, ranges, offset, pageSize, first))
  }

  async flush(): Promise<void> {
    await this.#pool.idle()
  }

  async drop(): Promise<void> {
    this.#slots.engine.shutdownStream(this.#stream, 'both')
    await this.#pool.settle()
  }

  async #sendBytes(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; done += this.#slots.size) {
      const part = bytes.subarray(done, done + this.#slots.size)
      const slot = await this.#slots.take('gather')
      this.#slots.bytes(slot).set(part)
      await this.#pool
        .start(async () => {
          const result = await this.#slots.engine.send(this.#stream, part.length, slot, 0)
          this.#slots.give(slot)
          if (result < 0) throw new IoError(-result, 'write', this.#name)
        })
        .catch((error: unknown) => {
          this.#slots.give(slot)
          throw error
        })
    }
  }

  async #send(request: () => Promise<number>): Promise<void> {
    // Within an object it is not waited for here: who is next makes its request meanwhile.
    const { sent } = await this.#inLine(async () => ({ sent: request() }))
    const result = await sent
    if (result < 0) throw new IoError(-result, 'write', this.#name)
  }

  #inLine<T>(work: () => Promise<T>): Promise<T> {
    const made = this.#line.then(work)
    this.#line = made.catch(() => undefined)
    return made
  }
}

/** To a file. */
export class FileWriter implements StreamWriter {
  readonly #slots: Slots
  readonly #sink: CopySink
  #turn: Promise<void> = Promise.resolve()

  constructor(slots: Slots, sink: CopySink) {
    this.#slots = slots
    this.#sink = sink
  }

  bytes(bytes: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#sink.append(bytes))
  }

  pages({ slot, slotOffset, ranges, first }: PageRun, pageSize: number): Promise<void> {
    return this.#inTurn(async () => {
      const head = new Uint8Array(8)
      const view = new DataView(head.buffer)
      let at = slotOffset
      for (const [index, { offset, length }] of ranges.entries()) {
        for (let page = offset; page < offset + length; page += pageSize, at += pageSize) {
          const word = page + RamFlag.page + RamFlag.continue
          view.setUint32(0, Math.floor(word / 2 ** 32))
          view.setUint32(4, word % 2 ** 32)
          await this.#sink.append(index === 0 && page === offset ? first : head)
          await this.#sink.append(this.#slots.bytes(slot).subarray(at, at + pageSize))
        }
      }
    })
  }

  flush(): Promise<void> {
    return this.#inTurn(() => this.#sink.finish())
  }

  async drop(): Promise<void> {
    await this.#turn.catch(() => undefined)
    await this.#sink.abort()
  }

  /** Records must not mix. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(work)
    return this.#turn
  }
}
