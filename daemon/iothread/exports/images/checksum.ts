// SPDX-License-Identifier: Apache-2.0
// The checksum of an image: its blocks are hashed each for itself, and the digests one behind the other again, so that
// blocks are hashed in parallel and those that read as zeroes are not read. Hashing runs on the engine's threads.
// It may take minutes: a client that goes away meanwhile ends it.
// Source: checksums of ovirt-imageio.

import { DIGEST_STATE, type IoEngine, type SlotRange } from '../../../../native/types.js'
import { badRequest } from '../../../../protocol/http/refusal.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import { IoError } from '../../../errors.js'
import type { Exchange } from '../../../http/exchange.js'
import type { BlockNode } from '../../block/node.js'
import { TaskPool } from '../../copy/task-pool.js'
import { type Holder, type Piece, type PiecePool, SMALL } from '../piece-pool.js'
import { takePiece } from './memory.js'
import { pieceLength } from './piece-plan.js'
import type { ServedImage } from './served-image.js'
import type { Operation } from './ticket.js'
import type { Turns } from './turns.js'

const ALGORITHM = 'blake2b'
const DIGEST = 32
/** Blocks at once. */
const LANES = 4
/** Where in its memory a checksum keeps digests of blocks, in their order: behind what they have come to, one for each lane and one for the whole. */
const DIGESTS = (LANES + 1) * DIGEST_STATE
/** Digests that are kept until they are hashed. */
const KEPT = Math.floor((SMALL - DIGESTS) / DIGEST)
const MiB = 2 ** 20
/** Of nothing: an image without bytes has no blocks. */
const EMPTY = '0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8'

export interface ChecksumEnv {
  readonly engine: IoEngine
  readonly pool: PiecePool
  readonly checksums: Turns
}

export async function sendChecksum(
  image: ServedImage,
  { engine, pool, checksums }: ChecksumEnv,
  exchange: Exchange,
  query: ReadonlyMap<string, string>,
): Promise<void> {
  const algorithm = query.get('algorithm') ?? ALGORITHM
  if (algorithm !== ALGORITHM) throw badRequest(`query algorithm is unknown: expected ${ALGORITHM}`)
  const blockSize = blockSizeIn(query.get('block_size'))
  using operation = image.ticket.begin('read', true, (refusal) => exchange.stream.interrupt(refusal))
  using _watch = exchange.stream.watchEnd(() => operation.stop(new PeerError('the client went away')))
  using _turn = await checksums.take(operation)
  await image.freshen()
  const size = image.readable
  let checksum = EMPTY
  if (size > 0) {
    // Two holders, none of which has a piece when it waits for one: each gets at least a small one in the end.
    const [keeper, holder]: [Holder, Holder] = [{ held: 0 }, { held: 0 }]
    const memory = await takePiece(pool, keeper, SMALL, operation)
    try {
      const how = { engine, pool, holder, operation, node: image.node, size, blockSize, memory }
      checksum = await new Checksum(how).run()
    } finally {
      pool.give(keeper, memory)
    }
  }
  const body = JSON.stringify({ algorithm, block_size: blockSize, checksum })
  exchange.reply(200, [['content-type', 'application/json']], body)
}

function blockSizeIn(text = String(4 * MiB)): number {
  const size = /^\d{1,10}$/.test(text) ? Number(text) : 0
  if (size < MiB || size > 16 * MiB || size % 4096 !== 0)
    throw badRequest('query block_size is malformed: expected a multiple of 4096 from 1048576 to 16777216')
  return size
}

interface How {
  readonly engine: IoEngine
  readonly pool: PiecePool
  readonly holder: Holder
  readonly operation: Operation
  readonly node: BlockNode
  /** Of the image, bytes. */
  readonly size: number
  readonly blockSize: number
  /** For digests and what they have come to; see DIGESTS. */
  readonly memory: Piece
}

class Checksum {
  readonly #how: How
  /** Lanes that are free. */
  readonly #lanes = Array.from({ length: LANES }, (_, lane) => lane)
  /** Digest of a whole block of zeroes, once it is known. */
  #zeroes: Promise<Uint8Array> | undefined

  constructor(how: How) {
    this.#how = how
  }

  async run(): Promise<string> {
    const { size, blockSize, memory } = this.#how
    const whole = stateAt(memory, LANES)
    const blocks = Math.ceil(size / blockSize)
    for (let first = 0; first < blocks; first += KEPT) {
      const count = Math.min(KEPT, blocks - first)
      await this.#hashBlocks(first, count)
      const step = { first: first === 0, last: first + count === blocks }
      const kept = { slot: memory.slot, offset: memory.offset + DIGESTS, length: count * DIGEST }
      await this.#digest(kept, whole, step)
    }
    return Buffer.from(bytesOf(memory, LANES)).toString('hex')
  }

  /** Puts the digests of some blocks where they are kept. */
  async #hashBlocks(first: number, count: number): Promise<void> {
    const { memory, operation } = this.#how
    const tasks = new TaskPool(LANES)
    try {
      for (let index = 0; index < count; index++) {
        await tasks.room()
        operation.check()
        const lane = this.#lanes.pop()
        if (lane === undefined) throw new Error('more tasks than lanes')
        await tasks.start(async () => {
          try {
            memory.bytes.set(await this.#block(first + index, lane), DIGESTS + index * DIGEST)
          } finally {
            this.#lanes.push(lane)
          }
        })
      }
    } finally {
      await tasks.settle()
    }
    await tasks.idle()
  }

  async #block(index: number, lane: number): Promise<Uint8Array> {
    const { node, size, blockSize, operation } = this.#how
    const offset = index * blockSize
    const length = Math.min(blockSize, size - offset)
    const extent = await node.status(offset, length)
    const zero = extent.kind === 'zero' && extent.length === length
    if (!zero || length < blockSize) {
      const digest = await this.#hash(offset, length, lane, zero)
      operation.touched(offset, length)
      return digest
    }
    this.#zeroes ??= this.#hash(offset, length, lane, true)
    return this.#zeroes
  }

  /** @param zero  it is known to read as zeroes, and is not read */
  async #hash(offset: number, length: number, lane: number, zero: boolean): Promise<Uint8Array> {
    const { node, pool, holder, memory, operation } = this.#how
    for (let done = 0; done < length; ) {
      const left = length - done
      const piece = await takePiece(pool, holder, pieceLength(offset + done, left, pool.longest), operation)
      try {
        if (zero) piece.bytes.fill(0)
        else await node.read(offset + done, piece)
        const step = { first: done === 0, last: done + piece.length === length }
        await this.#digest(slotRange(piece), stateAt(memory, lane), step)
        done += piece.length
      } finally {
        pool.give(holder, piece)
      }
    }
    return bytesOf(memory, lane)
  }

  async #digest(from: SlotRange, state: SlotRange, step: { first: boolean; last: boolean }): Promise<void> {
    const result = await this.#how.engine.digest(from, state, step)
    if (result < 0) throw new IoError(-result, 'read', this.#how.node.name)
  }
}

function slotRange({ slot, offset, length }: Piece): SlotRange {
  return { slot, offset, length }
}

function stateAt({ slot, offset }: Piece, lane: number): SlotRange {
  return { slot, offset: offset + lane * DIGEST_STATE, length: DIGEST_STATE }
}

/** A copy of the digest that a lane has come to. */
function bytesOf({ bytes }: Piece, lane: number): Uint8Array {
  return bytes.slice(lane * DIGEST_STATE, lane * DIGEST_STATE + DIGEST)
}
