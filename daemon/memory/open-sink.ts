// SPDX-License-Identifier: Apache-2.0
// Makes the sink that was asked for. Used by the job.

import { nameOf, prepareConnections } from './connections.js'
import type { TransferContext } from './context.js'
import { CopySink } from './copy-sink.js'
import type { ReadBack } from './delta-pages.js'
import type { MemorySink } from './image.js'
import type { ImageFile } from './image-file.js'
import { frontFor } from './libvirt-front.js'
import { MappedSink } from './mapped-sink.js'
import type { SinkSpec } from './messages.js'
import { MultifdSink } from './multifd-sink.js'
import { NullSink } from './null-sink.js'
import { StreamSink } from './stream-sink.js'
import { ConnectionWriter, FileWriter } from './stream-writer.js'
import { TargetFile } from './target-file.js'

export interface OpenedSink {
  readonly sink: MemorySink
  /** Gets the source's bytes as they are; the sink only sees what is in them. */
  readonly tap?: (bytes: Uint8Array) => Promise<void>
  readonly readBack?: ReadBack
}

/** A sink that can be opened: what can be refused before the source has come has been. */
export interface PreparedSink {
  /** finish() waits for the disk. */
  readonly flushes: boolean
  open(): Promise<OpenedSink>
  /** Instead of open(). */
  drop(): Promise<void>
}

export interface SinkQuestions {
  /** The source is one row of bytes that may be stored as it is. */
  readonly copies: boolean
  /** The file that is the source. */
  readonly image: ImageFile | undefined
}

/** @throws CommandError, IoError */
export async function prepareSink(
  spec: SinkSpec,
  questions: SinkQuestions,
  context: TransferContext,
): Promise<PreparedSink> {
  const { slots } = context
  switch (spec.kind) {
    case 'null':
      return { flushes: false, open: async () => ({ sink: new NullSink(slots) }), drop: async () => {} }
    case 'file':
      return await prepareFile(spec, questions, context)
    case 'stream':
      return await prepareStream(spec, context)
    default:
      return spec satisfies never
  }
}

async function prepareFile(
  spec: Extract<SinkSpec, { kind: 'file' }>,
  { copies, image }: SinkQuestions,
  context: TransferContext,
): Promise<PreparedSink> {
  const { slots, fdTaken } = context
  const { offset, channels, direct, flush } = spec
  const front = frontFor(spec, image)
  const target = await TargetFile.open({ slots, place: spec.file, offset, direct, flush, fdTaken })
  const mapped = spec.format === 'mapped-ram' || spec.format === 'libvirt-sparse'
  const open = async (): Promise<OpenedSink> => {
    if (mapped) {
      const sink = new MappedSink({ slots, target, offset, channels, front, digest: undefined })
      return { sink, readBack: (place, slot, length) => sink.readBack(place, slot, length) }
    }
    const copy = new CopySink({ slots, target, offset, channels, front })
    await copy.prepare()
    if (copies) return { sink: copy, tap: (bytes) => copy.append(bytes) }
    return { sink: new StreamSink({ slots, writer: new FileWriter(slots, copy), zeroPages: true }) }
  }
  return { flushes: flush !== 'none', open, drop: () => target.abort() }
}

async function prepareStream(
  spec: Extract<SinkSpec, { kind: 'stream' }>,
  context: TransferContext,
): Promise<PreparedSink> {
  const { slots, pace } = context
  const { to, channels, zeroPages } = spec
  const connections = await prepareConnections({
    ...context,
    endpoint: to,
    count: 1 + channels,
    direction: 'out',
  })
  const open = async (): Promise<OpenedSink> => {
    const [main, ...others] = await connections.open()
    if (main === undefined) throw new Error('no connection was opened')
    const name = nameOf(to)
    const writer = new ConnectionWriter(slots, main, name, pace)
    if (channels === 0) return { sink: new StreamSink({ slots, writer, zeroPages }) }
    return { sink: new MultifdSink({ slots, writer, channels: others, name, pace, zeroPages }) }
  }
  return { flushes: false, open, drop: connections.stop }
}
