// SPDX-License-Identifier: Apache-2.0
// The channels of multifd beside a StreamSource: packets of pages from several connections at once. What came before a sync
// point on any of them is in its place before anything behind it is taken.

import type { ChannelScanner } from '../../native/stream-types.js'
import { FormatError } from '../../protocol/format-error.js'
import { parseHello } from '../../protocol/migration/multifd-hello.js'
import { connectionKind } from '../../protocol/migration/preamble.js'
import type { Input } from './input.js'
import type { PageGatherer } from './page-gatherer.js'
import type { SyncPoints } from './sync-points.js'

export interface Channel {
  readonly input: Input
  readonly scanner: ChannelScanner
  readonly pages: Pick<PageGatherer, 'ready' | 'hand' | 'drop'>
}

/**
 * Tells connections apart by their first bytes; they come in any order.
 * @returns the main one, and the others by their channel id
 * @throws FormatError
 */
export async function sortConnections(inputs: readonly Input[]): Promise<{ main: Input; channels: Input[] }> {
  let main: Input | undefined
  const channels = new Map<number, Input>()
  await Promise.all(
    inputs.map(async (input) => {
      const kind = await input.parse(peekKind, 'its magic number')
      if (kind === 'main') {
        if (main !== undefined) throw new FormatError('two connections begin as the main one')
        main = input
        return
      }
      const { channel: id } = await input.parse(parseHello, 'its greeting')
      if (id >= inputs.length - 1 || channels.has(id))
        throw new FormatError(`a connection calls itself channel ${id} of ${inputs.length - 1}`)
      channels.set(id, input)
    }),
  )
  if (main === undefined) throw new FormatError('no connection begins as the main one')
  return { main, channels: [...channels].sort(([one], [other]) => one - other).map(([, input]) => input) }
}

function peekKind(bytes: Uint8Array) {
  const value = connectionKind(bytes)
  return value === undefined ? undefined : { value, length: 0 }
}

/** Reads one channel to its end. */
export async function readChannel({ input, scanner, pages }: Channel, points: SyncPoints): Promise<void> {
  try {
    for (;;) {
      const chunk = await input.chunk()
      if (chunk === undefined) break
      await pages.ready()
      const { taken, stop } = scanner.scan(chunk.slot, chunk.offset, chunk.length)
      input.take(taken)
      switch (stop) {
        case 'input':
        // Between two sync points no page comes twice, in whatever order they come.
        case 'order':
          break
        case 'full':
          await pages.hand()
          break
        case 'sync':
          await pages.hand()
          await points.arrive()
          break
        case 'bad':
          throw new FormatError(`${scanner.problem()}, before offset ${input.position} of ${input.name}`)
        case 'end':
        case 'delta':
          throw new Error(`a channel stopped at '${stop}'`)
        default:
          stop satisfies never
      }
    }
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
