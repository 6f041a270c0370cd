// SPDX-License-Identifier: Apache-2.0
// An export of a disk's worker in this process, and clients of it that have their handshake behind them.

import { once } from 'node:events'
import type { Test } from 'tap'
import type { ExportSpec, NodeSpec, ServedFacts } from '../../../daemon/iothread/messages.js'
import { duplicate } from '../../../native/descriptors.js'
import type { EngineKind } from '../../../native/types.js'
import type { Agreed, ReplyStyle } from '../../../protocol/nbd/agreed.js'
import { usableFlags } from '../../../protocol/nbd/agreed.js'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'
import { socketPair } from '../../native/descriptors.js'
import { Bench } from '../iothread.js'
import { NbdClient } from './client.js'

export const STYLES: readonly ReplyStyle[] = ['simple', 'structured', 'extended']

const { READ_ONLY, SEND_RESIZE, ROTATIONAL, BLOCK_STATUS_PAYLOAD } = transmissionFlags
/** As the main thread offers it to those who may write. */
const FLAGS =
  Object.values(transmissionFlags).reduce((all, flag) => all | flag, 0) &
  ~(READ_ONLY | SEND_RESIZE | ROTATIONAL | BLOCK_STATUS_PAYLOAD)

export interface ServedOptions {
  /** Bytes. */
  readonly size?: number
  /** Between the memory disk `disk` and the export: rules of an x-inject node. */
  readonly rules?: readonly Record<string, unknown>[]
  /** Instead of a memory disk; its name has to be `disk`. */
  readonly node?: NodeSpec
  readonly export?: Partial<ExportSpec>
  readonly aio?: EngineKind
}

export class Served {
  readonly bench: Bench
  readonly size: number
  readonly #t: Test
  #facts: ServedFacts | undefined
  #next = 0

  private constructor(t: Test, bench: Bench, size: number) {
    this.#t = t
    this.bench = bench
    this.size = size
  }

  static async open(t: Test, options: ServedOptions = {}): Promise<Served> {
    const bench = new Bench(options.aio)
    const size = options.size ?? 4 << 20
    const served = new Served(t, bench, size)
    t.teardown(() => bench.end())
    const memory = { driver: 'x-memory', size, discard: 'unmap' }
    if (options.rules === undefined) await bench.add(options.node ?? { 'node-name': 'disk', ...memory })
    else {
      await bench.add(options.node ?? { 'node-name': 'below', ...memory })
      const file = options.node?.['node-name'] ?? 'below'
      await bench.add({
        driver: 'x-inject',
        'node-name': 'top',
        file,
        rules: options.rules,
        discard: 'unmap',
      })
    }
    const node = options.rules === undefined ? 'disk' : 'top'
    const spec = { writable: true, writethrough: false, allocationDepth: true, ...options.export }
    served.#facts = await bench.request('export-add', { id: 'e', node, ...spec })
    return served
  }

  agreed(replies: ReplyStyle, more: Partial<Agreed> = {}): Agreed {
    const facts = this.#facts
    if (facts === undefined) throw new Error('not open')
    const contexts = replies === 'simple' ? [] : facts.contexts.map((name, id) => ({ id, name }))
    const flags = usableFlags(FLAGS, { replies, contexts })
    const { blockSizes } = facts
    return { exportName: 'e', size: this.size, flags, replies, blockSizes, contexts, ...more }
  }

  /** @param rest  what came behind the handshake */
  async client(
    replies: ReplyStyle = 'structured',
    more: Partial<Agreed> = {},
    rest: Uint8Array = new Uint8Array(),
    kind: 'unix' | 'tcp' = 'unix',
    id = 'e',
  ): Promise<NbdClient> {
    const { mine, peer, fd } = await socketPair(this.#t, kind)
    const own = duplicate(fd)
    mine.destroy()
    await once(mine, 'close')
    const agreed = this.agreed(replies, more)
    await this.bench.request('export-connect', { id, connection: this.#next++, fd: own, agreed, rest })
    return new NbdClient(peer, agreed)
  }

  /** Resolves when so many clients have left, with why. */
  async left(count: number): Promise<(string | undefined)[]> {
    const found = () => this.bench.reports.filter((report) => report.kind === 'export-left')
    while (found().length < count) await new Promise((resolve) => setImmediate(resolve))
    return found().map(({ why }) => why)
  }

  remove(): Promise<null> {
    return this.bench.request('export-del', { id: 'e' })
  }
}

/** Bytes that say where they are: no two aligned words are alike. */
export function pattern(offset: number, length: number, salt = 0): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) {
    const place = offset + at
    bytes[at] = (place * 31 + (place >> 8) * 17 + (place >> 16) * 7 + salt) & 255
  }
  return bytes
}
