// SPDX-License-Identifier: Apache-2.0
// The channels of multifd beside a StreamSource: packets of pages from several connections at once. What came before a sync
// point on any of them is in its place before anything behind it is taken.

import type { ChannelScanner } from '../../native/stream-types.js'
import { FormatError } from '../../protocol/format-error.js'
import { parseHello } from '../../protocol/migration/multifd-hello.js'
import { connectionKind } from '../../protocol/migration/preamble.js'
import type { Input } from './input.js'
import type { PacketInput, Packets } from './packet-input.js'
import type { PageGatherer } from './page-gatherer.js'
import type { SyncPoints } from './sync-points.js'

export interface Channel {
  readonly input: PacketInput
  readonly scanner: ChannelScanner
  readonly pages: Pick<PageGatherer, 'ready' | 'hand' | 'drop'> & {
    /** Pages that were received in a slot stay there, and it is handed on with them. @returns false: they are copied */
    keep(slot: number): Promise<boolean> | boolean
  }
}

/** Less is copied: who sends little at a time must not fill slots with it, bytes. */
const IN_PLACE = 128 * 1024

/**
 * Tells connections apart by their first bytes; they come in any order.
 * @returns the main one, and the others by their channel id
 * @throws FormatError
 */
export async function sortConnections<C extends { readonly input: Input }>(
  connections: readonly C[],
): Promise<{ main: C; channels: C[] }> {
  let main: C | undefined
  const channels = new Map<number, C>()
  await Promise.all(
    connections.map(async (connection) => {
      const kind = await connection.input.parse(peekKind, 'its magic number')
      if (kind === 'main') {
        if (main !== undefined) throw new FormatError('two connections begin as the main one')
        main = connection
        return
      }
      const { channel: id } = await connection.input.parse(parseHello, 'its greeting')
      if (id >= connections.length - 1 || channels.has(id))
        throw new FormatError(`a connection calls itself channel ${id} of ${connections.length - 1}`)
      channels.set(id, connection)
    }),
  )
  if (main === undefined) throw new FormatError('no connection begins as the main one')
  return { main, channels: [...channels].sort(([one], [other]) => one - other).map(([, each]) => each) }
}

function peekKind(bytes: Uint8Array) {
  const value = connectionKind(bytes)
  return value === undefined ? undefined : { value, length: 0 }
}

/** Reads one channel to its end. */
export async function readChannel(channel: Channel, points: SyncPoints): Promise<void> {
  const { input, scanner, pages } = channel
  try {
    for (let packets = await input.next(); packets !== undefined; packets = await input.next())
      await readPackets(channel, packets, points)
    if (scanner.within()) throw input.cutShort('a packet')
    await pages.hand()
    points.leave()
  } catch (error) {
    points.fail(error instanceof Error ? error : new Error(String(error)))
    throw error
  } finally {
    pages.drop()
  }
}

/** What came at once. Pages that are many are written from where they are; else they are gathered with others. */
async function readPackets(
  { input, scanner, pages }: Channel,
  { slot, length, heads }: Packets,
  points: SyncPoints,
): Promise<void> {
  let kept = false
  try {
    kept = length >= IN_PLACE && (await pages.keep(slot))
    for (let at = 0, headsAt = 0; at < length || headsAt < heads.length; ) {
      if (!kept) await pages.ready()
      const { taken, headsTaken, stop } = scanner.scanApart(slot, at, length - at, heads, headsAt)
      at += taken
      headsAt += headsTaken
      switch (stop) {
        case 'input':
        // Between two sync points no page comes twice, in whatever order they come.
        case 'order':
          break
        case 'full':
          await pages.hand()
          break
        case 'sync':
          // Nothing follows it here: a slot that is kept goes with what it holds.
          await pages.hand()
          await points.arrive()
          break
        case 'bad': {
          const left = length - at + heads.length - headsAt
          throw new FormatError(
            `${scanner.problem()}, before offset ${input.position - left} of ${input.name}`,
          )
        }
        case 'end':
        case 'delta':
          throw new Error(`a channel stopped at '${stop}'`)
        default:
          stop satisfies never
      }
    }
    if (kept) await pages.hand()
  } finally {
    if (!kept) input.give(slot)
  }
}
