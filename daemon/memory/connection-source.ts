// SPDX-License-Identifier: Apache-2.0
// Source: a QEMU that migrates to us, over one connection or with the channels of multifd beside it. The connections stay open
// until the image is safe: a source with a return path waits to hear of it.

import type { FileId } from '../../native/types.js'
import { HELLO_LENGTH } from '../../protocol/migration/multifd-hello.js'
import { atMost } from '../common/deadline.js'
import { Cancelled } from '../errors.js'
import { nameOf, type OpenConnections } from './connections.js'
import type { TransferContext } from './context.js'
import type { BlockPlace, ImageHead } from './image.js'
import { fromStream, Input } from './input.js'
import type { Endpoint } from './messages.js'
import { readChannel, sortConnections } from './multifd-source.js'
import type { OpenedSink } from './open-sink.js'
import { PacketInput } from './packet-input.js'
import { channelReader, pageReader } from './page-reader.js'
import { ReturnPath } from './return-path.js'
import { type PageReader, StreamSource } from './stream-source.js'
import { SyncPoints } from './sync-points.js'
import { TailCheck } from './tail-check.js'

/** Receives queued on a connection: alone, and where there are several. */
const DEPTH = 4
const DEPTH_OF_MANY = 2
/** How long a source that was told that all is well may take to close, milliseconds. */
const FAREWELL_MS = 1000

interface Connection {
  readonly stream: FileId
  readonly input: Input
  /** Of a channel of multifd, behind its hello. */
  packets?: PacketInput
}

export class ConnectionSource {
  readonly #from: Endpoint
  readonly #context: TransferContext
  #connections: readonly Connection[] = []
  #returnPath: ReturnPath | undefined

  constructor(from: Endpoint, context: TransferContext) {
    this.#from = from
    this.#context = context
  }

  /** Gives everything to the sink but its finish(). */
  async read(open: OpenConnections, opened: OpenedSink): Promise<void> {
    const { signal, tally } = this.#context
    const streams = await open()
    if (signal.aborted) {
      // Nobody closes what came after the end.
      await Promise.all(streams.map((stream) => this.#context.slots.engine.close(stream)))
      throw new Cancelled()
    }
    this.#connections = streams.map((stream) => ({
      stream,
      input: this.#inputOf(stream, streams.length, opened),
    }))
    // What came is told also when they are closed.
    const connections = this.#connections
    tally.bytes(() => connections.reduce((sum, { input, packets }) => sum + (packets ?? input).received, 0))
    const stop = () => this.#stop()
    signal.addEventListener('abort', stop)
    try {
      const [first, second] = this.#connections
      if (first === undefined) throw new Error('no connection was opened')
      if (second === undefined) await this.#readOne(first, opened)
      else await this.#readMany(opened)
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  /** The image is safe: who waits to hear of it does. */
  async confirm(): Promise<void> {
    if (this.#returnPath?.isOpen !== true) return
    await this.#returnPath.shut()
    const ends = this.#connections.map(({ input }) => input.peek().catch(() => undefined))
    await atMost(Promise.all(ends), FAREWELL_MS)
  }

  /** A source that was not told that all is well takes it for a failure. */
  async close(): Promise<void> {
    const { engine } = this.#context.slots
    const connections = this.#connections
    this.#connections = []
    this.#returnPath = undefined
    for (const { input, packets, stream } of connections) {
      // A close waits for receives that are under way, and a peer that is silent would hold it up.
      engine.shutdownStream(stream, 'read')
      input.close()
      packets?.close()
    }
    await Promise.all(connections.map(({ stream }) => engine.close(stream)))
  }

  #inputOf(stream: FileId, count: number, { tap }: OpenedSink): Input {
    return new Input({
      ...this.#receiving(count),
      ...{ origin: 0, receive: fromStream(this.#context.slots, stream) },
      ...(count > 1 && { first: HELLO_LENGTH }),
      ...(tap !== undefined && { tap }),
    })
  }

  /** Of one of so many connections. */
  #receiving(count: number) {
    const { slots, pace, signal, meter, pausePoint } = this.#context
    const depth = count > 1 ? DEPTH_OF_MANY : DEPTH
    return {
      slots,
      pace,
      signal,
      meter,
      pausePoint,
      name: nameOf(this.#from),
      depth,
      share: slots.shareOf(count),
    }
  }

  /** Of a channel whose hello was read. */
  #packetsOf(connection: Connection, count: number, pageSize: number): PacketInput {
    const { input, stream } = connection
    input.close()
    const { position } = input
    connection.packets = new PacketInput({ ...this.#receiving(count), stream, pageSize, position })
    return connection.packets
  }

  #stop(): void {
    for (const { input, packets, stream } of this.#connections) {
      this.#context.slots.engine.shutdownStream(stream, 'both')
      input.close()
      packets?.close()
    }
  }

  async #readOne(connection: Connection, opened: OpenedSink): Promise<void> {
    const reader = (head: ImageHead, places: readonly BlockPlace[]) =>
      pageReader(head, places, opened, this.#context)
    await this.#stream(connection, reader, opened).run()
  }

  /** A main connection and the channels of multifd. */
  async #readMany(opened: OpenedSink): Promise<void> {
    const { main: connection, channels } = await sortConnections(this.#connections)
    const main = connection.input
    main.goOn()
    let running: Promise<unknown> = Promise.resolve()
    let fail = (_error: unknown): void => {}
    const failed = new Promise<never>((_, reject) => {
      fail = reject
    })
    failed.catch(() => undefined)
    const reader = (head: ImageHead, places: readonly BlockPlace[]): PageReader => {
      const own = pageReader(head, places, opened, this.#context)
      const count = 1 + channels.length
      const points = new SyncPoints(count, () => opened.sink.barrier(), main.name)
      const readers = channels.map((channel) =>
        channelReader(this.#packetsOf(channel, count, head.pageSize), head, places, opened, this.#context),
      )
      running = Promise.all(readers.map((channel) => readChannel(channel, points)))
      // Whoever waits at a sync point has heard of it; the main connection may wait for its source, which waits for the channel.
      running.catch(fail)
      return {
        ...own,
        finish: async () => {
          await own.finish()
          points.close()
        },
        seen: (block) => own.seen(block) || readers.some(({ scanner }) => scanner.seen(block)),
        sync: async (at) => {
          if (at === 'end' && head.syncPerWalk) return
          await own.pages.hand()
          await points.arrive()
        },
      }
    }
    const reading = this.#stream(connection, reader, opened).run()
    reading.catch(() => undefined)
    await Promise.race([reading, failed])
    await running
  }

  #stream(
    { input, stream }: Connection,
    reader: (head: ImageHead, places: readonly BlockPlace[]) => PageReader,
    { sink, tap }: OpenedSink,
  ): StreamSource {
    const { slots, warn, tally, inFiles } = this.#context
    const answered = this.#from.kind === 'listen' || this.#from.kind === 'connect'
    this.#returnPath = answered ? new ReturnPath(slots, stream, input.name) : undefined
    return new StreamSource({
      ...{ input, reader, sink, warn, tally, stores: tap !== undefined },
      inFiles: tap === undefined ? inFiles : undefined,
      answers: this.#returnPath ?? 'refused',
      tail: new TailCheck(input.name, 'exact'),
    })
  }
}
