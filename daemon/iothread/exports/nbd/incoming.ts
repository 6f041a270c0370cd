// SPDX-License-Identifier: Apache-2.0
// The payload of a WRITE while it comes: it is written in parts, each as soon as it is there. Used by Connection.

import type { Request } from '../../../../protocol/nbd/request.js'
import type { Holder, Piece, PiecePool } from '../piece-pool.js'

/** Writes parts of one request, and answers it when the last of them is done. */
export interface PartWriter {
  /** @param piece  the writer's from now on */
  part(offset: number, piece: Piece): void
  /** No more parts will be given: all were, or the connection ended. */
  over(): void
}

/** Room for bytes that come: [from, to) of `bytes`. */
export interface Place {
  readonly bytes: Uint8Array
  readonly from: number
  readonly to: number
}

export class Incoming {
  readonly #pool: PiecePool
  readonly #holder: Holder
  readonly #writer: PartWriter
  #offset: number
  #missing: number
  #piece: Piece | undefined
  /** Bytes of the piece that are there. */
  #filled = 0

  constructor({ offset, length }: Request, writer: PartWriter, pool: PiecePool, holder: Holder) {
    this.#offset = offset
    this.#missing = length
    this.#writer = writer
    this.#pool = pool
    this.#holder = holder
  }

  get complete(): boolean {
    return this.#missing === 0
  }

  /** Where the next bytes belong; undefined while there is no memory. */
  place(): Place | undefined {
    this.#piece ??= this.#pool.take(this.#holder, this.#missing)
    if (this.#piece === undefined) return undefined
    return { bytes: this.#piece.bytes, from: this.#filled, to: this.#piece.length }
  }

  /** So many bytes were put where place() said. */
  came(bytes: number): void {
    const piece = this.#piece
    if (piece === undefined) throw new Error('bytes without a place')
    this.#filled += bytes
    this.#missing -= bytes
    if (this.#filled < piece.length) return
    this.#piece = undefined
    this.#filled = 0
    this.#writer.part(this.#offset, piece)
    this.#offset += piece.length
    if (this.complete) this.#writer.over()
  }

  /** The rest will never come: what came in part is not written. */
  drop(): void {
    if (this.#piece !== undefined) this.#pool.give(this.#holder, this.#piece)
    this.#piece = undefined
    this.#writer.over()
  }
}
