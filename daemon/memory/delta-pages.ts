// SPDX-License-Identifier: Apache-2.0
// XBZRLE: pages that come as changes to what was sent before. Reads the page back from where it was written, changes it, and
// writes it again, one after the other: such streams are rare and slow anyway.

import { crc32c } from '../../native/page-scanner.js'
import type { PageScanner } from '../../native/stream-types.js'
import { isPageSet, setPage } from '../../protocol/migration/mapped-bitmap.js'
import { applyDelta } from '../../protocol/migration/xbzrle.js'
import type { BlockPlace, MemorySink } from './image.js'
import type { PageGatherer } from './page-gatherer.js'
import type { Slots } from './slots.js'

/** Reads a page that the sink was given before into the start of a slot. */
export type ReadBack = (place: number, slot: number, length: number) => Promise<void>

export interface DeltaOptions {
  readonly scanner: PageScanner
  readonly pages: PageGatherer
  readonly slots: Slots
  readonly sink: MemorySink
  readonly places: readonly BlockPlace[]
  readonly pageSize: number
  readonly readBack: ReadBack
}

export class DeltaPages {
  readonly #options: DeltaOptions

  constructor(options: DeltaOptions) {
    this.#options = options
  }

  /** Takes the record the scanner stopped at. */
  async apply(): Promise<void> {
    const { scanner, pages, slots, sink, places, pageSize, readBack } = this.#options
    const { block, offset, bytes } = scanner.delta()
    await pages.settle()
    const place = places[block]
    if (place === undefined) throw new RangeError(`block ${block}`)
    const number = offset / pageSize
    const slot = await slots.take('gather')
    const page = slots.bytes(slot).subarray(0, pageSize)
    try {
      if (isPageSet(place.bitmap, number)) await readBack(place.place + offset, slot, pageSize)
      else page.fill(0)
      applyDelta(page, bytes)
    } catch (error) {
      slots.give(slot)
      throw error
    }
    setPage(place.bitmap, number)
    if (place.digests !== undefined) place.digests[number] = crc32c(page)
    await sink.pages({ slot, pieces: [{ offset: place.place + offset, length: pageSize }], length: pageSize })
    await sink.barrier()
  }
}
