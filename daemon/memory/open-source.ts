// SPDX-License-Identifier: Apache-2.0
// Makes the source that was asked for. Used by the job.

import { ConnectionSource } from './connection-source.js'
import { prepareConnections } from './connections.js'
import type { TransferContext } from './context.js'
import { FileBytes } from './file-bytes.js'
import { type ImageFile, recognise } from './image-file.js'
import { Input } from './input.js'
import { MappedSource } from './mapped-source.js'
import type { SourceSpec } from './messages.js'
import { NullSink } from './null-sink.js'
import type { OpenedSink } from './open-sink.js'
import { Pace } from './pace.js'
import { pageReader } from './page-reader.js'
import { Stats } from './stats.js'
import { type PageReader, StreamSource } from './stream-source.js'
import { tailOfFile } from './tail-check.js'
import { WaitMeter } from './wait-meter.js'

/** Parts of a file that are read at once. */
const DEPTH = 4

export interface PreparedSource {
  /** The file it is; undefined for connections. */
  readonly image: ImageFile | undefined
  /** Of that file, see identityOf(). */
  readonly identity: string | undefined
  /** One row of bytes that can be stored as it is. */
  readonly copies: boolean
  /** All of it, as far as it can be looked at before it moves: files. @throws FormatError, IoError */
  check(): Promise<void>
  /** Gives everything to the sink but its finish(). */
  run(opened: OpenedSink): Promise<void>
  /** The image is safe where it went. */
  confirm(): Promise<void>
  close(): Promise<void>
}

/** @throws CommandError, IoError, FormatError */
export async function prepareSource(spec: SourceSpec, context: TransferContext): Promise<PreparedSource> {
  switch (spec.kind) {
    case 'stream':
      return await prepareStream(spec, context)
    case 'file':
      return await prepareFile(spec, context)
    default:
      return spec satisfies never
  }
}

async function prepareStream(
  spec: Extract<SourceSpec, { kind: 'stream' }>,
  context: TransferContext,
): Promise<PreparedSource> {
  const { from, channels } = spec
  const connections = await prepareConnections({
    ...context,
    ...{ endpoint: from, count: 1 + channels, direction: 'in' },
  })
  const source = new ConnectionSource(from, context)
  return {
    image: undefined,
    identity: undefined,
    copies: channels === 0,
    check: async () => {},
    run: (opened) => source.read(connections.open, opened),
    confirm: () => source.confirm(),
    close: async () => {
      await connections.stop()
      await source.close()
    },
  }
}

async function prepareFile(
  spec: Extract<SourceSpec, { kind: 'file' }>,
  context: TransferContext,
): Promise<PreparedSource> {
  const { slots, fdTaken } = context
  const file = await FileBytes.open(slots, spec.file, spec.direct, fdTaken)
  try {
    const image = await recognise(file, spec.offset)
    const reads =
      image.layout === 'mapped-ram'
        ? mappedReader(file, image.base, context)
        : {
            check: () => checkStreamFile(file, image.base, context),
            run: (opened: OpenedSink) => readStreamFile(file, image.base, opened, context),
          }
    return {
      ...reads,
      image,
      identity: file.identity,
      copies: image.layout === 'stream',
      confirm: async () => {},
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Reads it once and keeps nothing: a stream that is damaged or cut short shows it at its end only. */
async function checkStreamFile(file: FileBytes, base: number, context: TransferContext): Promise<void> {
  const { slots, signal } = context
  const meter = new WaitMeter()
  const aside = { ...context, pace: new Pace(0, signal), meter, tally: new Stats(meter) }
  const opened = { sink: new NullSink(slots), blind: true }
  await readStreamFile(file, base, opened, aside, (reader) => ({ ...reader, delta: undefined }))
}

/** @param change  of what reads its pages */
async function readStreamFile(
  file: FileBytes,
  base: number,
  opened: OpenedSink,
  context: TransferContext,
  change = (reader: PageReader) => reader,
): Promise<void> {
  const { slots, pace, signal, meter, tally, pausePoint, warn, inFiles } = context
  const tap = opened.tap
  const input = new Input({
    ...{
      slots,
      pace,
      signal,
      meter,
      pausePoint,
      depth: DEPTH,
      share: slots.forReceivers,
      name: file.name,
      origin: base,
    },
    receive: file.receive(base),
    ...(tap !== undefined && { tap }),
  })
  tally.bytes(() => input.received)
  const { sink } = opened
  try {
    await new StreamSource({
      ...{ input, sink, warn, tally, stores: tap !== undefined, answers: 'none' },
      inFiles: tap === undefined ? inFiles : undefined,
      reader: (head, places) => change(pageReader(head, places, opened, context)),
      tail: await tailOfFile(file),
    }).run()
  } finally {
    input.close()
  }
}

function mappedReader(
  file: FileBytes,
  base: number,
  context: TransferContext,
): Pick<PreparedSource, 'check' | 'run'> {
  const { slots, pace, signal, meter, tally, pausePoint } = context
  let read = 0
  let pageSize = 4096
  tally.bytes(() => read)
  tally.count(() => ({ normal: read / pageSize, zero: 0, walks: 1 }))
  const source = new MappedSource({
    ...{ slots, file, base, pace, signal, meter, pausePoint, atOnce: 8 },
    tally: {
      begun: (head) => {
        pageSize = head.pageSize
        tally.begun(head)
      },
      pagesDone: () => tally.pagesDone(),
    },
    read: (bytes) => {
      read += bytes
    },
  })
  return { check: async () => void (await source.shape()), run: ({ sink }) => source.run(sink) }
}
