// SPDX-License-Identifier: Apache-2.0
// Makes the sink that was asked for. Used by the job.

import { digestsNameOf } from '../../protocol/migration/digests.js'
import type { JobResult } from '../common/job-messages.js'
import { CommandError } from '../errors.js'
import { nameOf, prepareConnections } from './connections.js'
import type { TransferContext } from './context.js'
import { CopySink } from './copy-sink.js'
import type { ReadBack } from './delta-pages.js'
import { DigestWriter } from './digest-file.js'
import { DigestSink } from './digest-sink.js'
import type { MemorySink } from './image.js'
import type { ImageFile } from './image-file.js'
import { frontFor } from './libvirt-front.js'
import { MappedSink } from './mapped-sink.js'
import type { Endpoint, SinkSpec } from './messages.js'
import { MultifdSink } from './multifd-sink.js'
import { NullSink } from './null-sink.js'
import type { Slots } from './slots.js'
import { StreamSink } from './stream-sink.js'
import { ConnectionWriter, FileWriter } from './stream-writer.js'
import { TargetFile } from './target-file.js'

export interface OpenedSink {
  readonly sink: MemorySink
  /** Gets the source's bytes as they are; the sink only sees what is in them. */
  readonly tap?: (bytes: Uint8Array) => Promise<void>
  readonly readBack?: ReadBack
  /** Pages are looked at and not given to the sink, which throws them away. */
  readonly blind?: boolean
}

/** A sink that can be opened: what can be refused before the source has come has been. */
export interface PreparedSink {
  /** finish() waits for the disk. */
  readonly flushes: boolean
  /** Somebody is called when it opens, who trusts what he is sent. */
  readonly calls?: boolean
  open(): Promise<OpenedSink>
  /** What is to be told of it at the end. */
  result?(): JobResult | undefined
  /** It will have no name, whatever still hangs; then drop(), or the sink's abort(). */
  giveUp(): Promise<void>
  /** Instead of open(). */
  drop(): Promise<void>
}

export interface SinkQuestions {
  /** The source is one row of bytes that may be stored as it is. */
  readonly copies: boolean
  /** The file that is the source. */
  readonly image: ImageFile | undefined
  /** Of that file, see identityOf(): it is not written over. */
  readonly identity: string | undefined
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
      return {
        flushes: false,
        open: async () => ({ sink: new NullSink(slots), blind: true }),
        giveUp: nothing,
        drop: nothing,
      }
    case 'file':
      return await prepareFile(spec, questions, context)
    case 'stream':
      return await prepareStream(spec, context)
    default:
      return spec satisfies never
  }
}

type FileSinkSpec = Extract<SinkSpec, { kind: 'file' }>

async function prepareFile(
  spec: FileSinkSpec,
  { copies, image, identity }: SinkQuestions,
  context: TransferContext,
): Promise<PreparedSink> {
  const { slots, fdTaken } = context
  const { offset, channels, direct, flush } = spec
  const front = frontFor(spec, image)
  const place = spec.file
  // Checksums of an image are nobody's when it is replaced.
  const companion = place.kind === 'path' && !spec.digests ? digestsNameOf(place.path) : undefined
  const how = { slots, place, offset, direct, flush, companion, fdTaken, source: identity }
  const target = await TargetFile.open(how)
  const digests = await digestsFor(spec, target, slots)
  const mapped = spec.format === 'mapped-ram' || spec.format === 'libvirt-sparse'
  const open = async (): Promise<OpenedSink> => {
    if (mapped) {
      const sink = new MappedSink({ slots, target, offset, channels, front })
      return { sink, readBack: (place, slot, length) => sink.readBack(place, slot, length) }
    }
    const copy = new CopySink({ slots, target, offset, channels, front })
    await copy.prepare()
    if (copies) return { sink: copy, tap: (bytes) => copy.append(bytes) }
    return { sink: new StreamSink({ slots, writer: new FileWriter(slots, copy), zeroPages: true }) }
  }
  const prepared = {
    flushes: flush !== 'none',
    open,
    giveUp: () => target.giveUp(),
    drop: () => target.abort(),
  }
  return digests === undefined ? prepared : withDigests(prepared, digests, context)
}

/** A file of checksums for a target. @throws CommandError, IoError; then nothing is left of the target */
async function digestsFor(
  { digests, file, flush }: FileSinkSpec,
  target: TargetFile,
  slots: Slots,
): Promise<DigestWriter | undefined> {
  if (!digests) return undefined
  try {
    const facts = await slots.engine.stat(target.file)
    if (file.kind !== 'path' || typeof facts === 'number' || facts.kind !== 'file')
      throw new CommandError('checksums are written beside a file with a name, and the target is none')
    return await DigestWriter.open(slots, digestsNameOf(file.path), flush)
  } catch (error) {
    await target.abort()
    throw error
  }
}

function withDigests(prepared: PreparedSink, writer: DigestWriter, { warn }: TransferContext): PreparedSink {
  let result: JobResult | undefined
  const ended = (leftOut: string | undefined) => {
    result = leftOut === undefined ? { digests: writer.name } : { 'digests-left-out': leftOut }
    if (leftOut !== undefined) warn(`no checksums were written: ${leftOut}`)
  }
  return {
    ...prepared,
    result: () => result,
    open: async () => {
      const opened = await prepared.open()
      return { ...opened, sink: new DigestSink(opened.sink, writer, ended) }
    },
    drop: async () => {
      await writer.abort()
      await prepared.drop()
    },
  }
}

async function prepareStream(
  spec: Extract<SinkSpec, { kind: 'stream' }>,
  context: TransferContext,
): Promise<PreparedSink> {
  const { slots } = context
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
    const writer = new ConnectionWriter(slots, main, name)
    if (channels === 0) return { sink: new StreamSink({ slots, writer, zeroPages }) }
    // Each connection has a slot of its own.
    slots.provideFor(1 + channels)
    return {
      sink: new MultifdSink({ slots, writer, channels: others, name, zeroPages, local: isUnix(to) }),
    }
  }
  return { flushes: false, calls: true, open, giveUp: nothing, drop: connections.stop }
}

function isUnix(to: Endpoint): boolean {
  return (to.kind === 'connect' || to.kind === 'listen') && to.address.kind === 'unix'
}

async function nothing(): Promise<void> {}
