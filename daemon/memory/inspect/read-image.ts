// SPDX-License-Identifier: Apache-2.0
// Reads an image that lies in a file into a KeepingSink: without the pages of a mapped-ram file, or with the digests of all.

import { setPage } from '../../../protocol/migration/mapped-bitmap.js'
import type { TransferContext } from '../context.js'
import type { FileBytes } from '../file-bytes.js'
import type { BlockPlace, ImageHead } from '../image.js'
import type { ImageFile } from '../image-file.js'
import { Input } from '../input.js'
import { MappedSource, type Shape } from '../mapped-source.js'
import { pageReader } from '../page-reader.js'
import { type PageReader, StreamSource } from '../stream-source.js'
import { tailOfFile } from '../tail-check.js'
import type { KeepingSink } from './keeping-sink.js'

/** Parts of a stream that are read at once, and slots of a mapped-ram file. */
const DEPTH = 4
const AT_ONCE = 8
/** States of devices are read in steps, bytes. */
const STEP = 2 ** 20

export interface Reading {
  readonly file: FileBytes
  readonly image: ImageFile
  readonly sink: KeepingSink
  /** Pages of mapped-ram files are read too. */
  readonly pages: boolean
  readonly context: TransferContext
  /** Told of bytes that were read. */
  readonly read: (bytes: number) => void
}

/** What is known when it was read to its end. */
export interface Ends {
  /** Where what follows RAM begins in the file, bytes. */
  readonly tailOffset: number
  /** Of a mapped-ram file. */
  readonly shape: Shape | undefined
}

/** @throws FormatError where it cannot be loaded, with everything before that in the sink; IoError, Cancelled */
export async function readImage(reading: Reading): Promise<Ends> {
  return reading.image.layout === 'mapped-ram' ? await readMapped(reading) : await readStream(reading)
}

async function readStream({ file, image, sink, context, read }: Reading): Promise<Ends> {
  const { slots, pace, signal, meter, tally, pausePoint, warn } = context
  const receive = file.receive(image.base)
  const input = new Input({
    ...{ slots, pace, signal, meter, pausePoint, depth: DEPTH, share: slots.forReceivers },
    ...{ name: file.name, origin: image.base },
    receive: async (slot, length) => {
      const result = await receive(slot, length)
      if (result > 0) read(result)
      return result
    },
  })
  let tailOffset = 0
  try {
    await new StreamSource({
      ...{ input, sink, warn, stores: false, answers: 'none', tail: await tailOfFile(file) },
      inFiles: undefined,
      tally: {
        begun: (head) => tally.begun(head),
        iteration: () => tally.iteration(),
        pagesDone: () => {
          tailOffset = input.position
        },
      },
      reader: (head, places) => inspecting(head, places, sink, context),
    }).run()
  } finally {
    input.close()
  }
  return { tailOffset, shape: undefined }
}

/** Pages that came as changes have data; which nobody knows who has not kept the pages. */
function inspecting(
  head: ImageHead,
  places: readonly BlockPlace[],
  sink: KeepingSink,
  context: TransferContext,
): PageReader {
  const reader = pageReader(head, places, { sink }, context)
  const apply = async () => {
    const { block, offset } = reader.scanner.delta()
    const page = offset / head.pageSize
    const bitmap = places[block]?.bitmap
    if (bitmap !== undefined) setPage(bitmap, page)
    sink.change(block, page)
  }
  return { ...reader, delta: { apply } }
}

async function readMapped({ file, image, sink, pages, context, read }: Reading): Promise<Ends> {
  const { slots, pace, signal, meter, tally, pausePoint } = context
  const source = new MappedSource({
    ...{ slots, file, base: image.base, pace, signal, meter, pausePoint, atOnce: AT_ONCE, read },
    tally,
  })
  const shape = await source.shape()
  if (pages) await source.run(sink)
  else await giveShape(file, shape, sink, pausePoint)
  return { tailOffset: shape.boundary, shape }
}

/** Everything but the pages. */
async function giveShape(
  file: FileBytes,
  { head, bitmaps, early, boundary, end }: Shape,
  sink: KeepingSink,
  pausePoint: () => Promise<void>,
): Promise<void> {
  const places = await sink.begin(head)
  for (const [index, { bitmap }] of places.entries())
    bitmap.set(bitmaps[index]?.subarray(0, bitmap.length) ?? [])
  for (const bytes of early) await sink.early(bytes)
  for (let at = boundary; at < end; at += STEP) {
    await pausePoint()
    await sink.tail(await file.bytes(at, Math.min(STEP, end - at)))
  }
}
