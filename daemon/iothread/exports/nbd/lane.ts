// SPDX-License-Identifier: Apache-2.0
// When a client of an NBD export gets a lane (native/lane-types.ts), and when it has to go back. Used by Connection, which does
// nothing with its socket while the lane has it.
//
// A client that asks for one thing at a time waits for threads to wake up more than for anything else; a task that serves it
// alone saves most of that. Whoever has several requests under way is served better here, where they are done at once. So a
// lane is lent behind a row of plain requests that came one by one. It goes back with the first unusual one, or when somebody
// else wants the node.

import type { Lane, LaneCounts, LaneEnd } from '../../../../native/lane-types.js'
import type { FileId, Range } from '../../../../native/types.js'
import { type Agreed, hasFlag, type ReplyStyle } from '../../../../protocol/nbd/agreed.js'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { parseRequest, type Request, requestHeaderLength } from '../../../../protocol/nbd/request.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import type { Borrower } from '../../block/loans.js'
import { IDLE_MS, LaneRow } from '../lane-row.js'
import type { Lanes } from '../lanes.js'
import { type Holder, type PiecePool, SMALL } from '../piece-pool.js'
import type { ServedNode } from './serving.js'

export interface LaneEnv {
  readonly lanes: Lanes
  readonly pool: PiecePool
  readonly served: ServedNode
  readonly agreed: Agreed
  /** Its memory is the client's. */
  readonly holder: Holder
}

/** Of one client. */
export class ClientLane implements Borrower {
  readonly #env: LaneEnv
  /** The socket; whose it is stays as it is. */
  readonly #fd: number
  readonly #row = new LaneRow()
  /** The engine's copy of the socket; a promise while it is being made. */
  #stream: Promise<FileId> | FileId | undefined
  #lane: Lane | undefined
  #closed = false

  constructor(env: LaneEnv, fd: number) {
    this.#env = env
    this.#fd = fd
  }

  /** A request begins. @param alone  no other of this client is under way, or has come */
  saw({ command, flags, length }: Request, alone: boolean): void {
    const plain = command === commands.READ || (command === commands.WRITE && this.#writable)
    const usual = (flags & ~commandFlags.PAYLOAD_LEN) === 0 && length <= SMALL
    this.#row.saw(alone && plain && usual)
  }

  /**
   * For a client of which nothing is under way, received, or to be sent.
   * @param back  called once when it is over, never before this returns
   * @returns whether the client and the node are lent now
   */
  lend(back: (end: LaneEnd) => void): boolean {
    if (!this.#row.longEnough || this.#closed) return false
    const stream = this.#adopted()
    const { lanes, pool, holder, served, agreed } = this.#env
    if (stream === undefined || !lanes.take()) return false
    const piece = pool.take(holder, SMALL)
    const loan = piece && served.node.lend(this)
    if (piece === undefined || loan === undefined) {
      if (piece !== undefined) pool.give(holder, piece)
      lanes.give()
      // Not at every request: what is in the way is likely to stay for a while.
      this.#row.restart()
      return false
    }
    const length = Math.min(agreed.size, loan.lent.length)
    const lane = lanes.engine.lane({
      file: loan.lent.file,
      stream,
      slot: piece.slot,
      slotOffset: piece.offset,
      room: piece.length,
      length,
      style: agreed.replies,
      writable: this.#writable,
      align: agreed.blockSizes.minimum,
      idleMs: IDLE_MS,
    })
    this.#lane = lane
    // It never rejects; who lent hears of the end by what is called last.
    void lane.ended.then((end) => {
      this.#row.judge(lane.counts())
      loan.back(this.#begun(end, length))
      this.#lane = undefined
      lanes.give()
      pool.give(holder, piece)
      back(end)
    })
    return true
  }

  callBack(): void {
    this.#lane?.callBack()
  }

  counts(): LaneCounts {
    if (this.#lane === undefined) throw new Error('no lane is lent')
    return this.#lane.counts()
  }

  /** Nothing is lent any more. @returns resolves when nobody has the socket */
  close(): Promise<void> | undefined {
    this.#closed = true
    if (this.#stream === undefined) return undefined
    return this.#letGo(this.#stream)
  }

  get #writable(): boolean {
    const { served, agreed } = this.#env
    return !hasFlag(agreed.flags, 'READ_ONLY') && !served.writethrough
  }

  /** The first to ask comes too early. */
  #adopted(): FileId | undefined {
    if (typeof this.#stream === 'number') return this.#stream > 0 ? this.#stream : undefined
    this.#stream ??= this.#adopt()
    return undefined
  }

  async #adopt(): Promise<FileId> {
    const stream = await this.#env.lanes.engine.adopt(this.#fd)
    this.#stream = stream
    return stream
  }

  async #letGo(adopted: Promise<FileId> | FileId): Promise<void> {
    const stream = await adopted
    // What closing a socket may say is of no use to anybody.
    if (stream > 0) await this.#env.lanes.engine.close(stream)
  }

  /**
   * Where something may have been written that has no answer. The connection does it once more, unless it was closed meanwhile;
   * others are to hear of it either way. A lane begins a write when all of it has come, so it is what came back first.
   * @param end  of what the lane may write
   */
  #begun({ received }: LaneEnd, end: number): Range | undefined {
    const { replies } = this.#env.agreed
    const request = firstRequest(received, replies)
    if (request?.command !== commands.WRITE || !this.#writable) return undefined
    const { offset, length } = request
    const whole = received.length >= requestHeaderLength(replies) + length
    return whole && length > 0 && offset + length <= end ? { offset, length } : undefined
  }
}

function firstRequest(received: Uint8Array, replies: ReplyStyle): Request | undefined {
  try {
    return parseRequest(received, 0, replies)
  } catch (error) {
    // The connection ends when it comes to it.
    if (error instanceof PeerError) return undefined
    throw error
  }
}
