// SPDX-License-Identifier: Apache-2.0
// One file that is looked at: opened, read as far as is asked, and what was found. Used by the parts of InspectJob.

import { parseHead } from '../../../protocol/migration/section.js'
import type { TransferContext } from '../context.js'
import { FileBytes } from '../file-bytes.js'
import type { BlockPlace, ImageHead } from '../image.js'
import type { InspectedFile } from '../messages.js'
import { attempt, type Front, lookAtFront } from './front.js'
import { KeepingSink } from './keeping-sink.js'
import { type Ends, readImage } from './read-image.js'

/** How far an inspection is, bytes. */
export interface Meter {
  /** So many bytes more will be read. */
  expect(bytes: number): void
  read(bytes: number): void
}

export class Inspection {
  readonly file: FileBytes
  readonly offset: number
  readonly front: Front
  readonly #context: TransferContext
  readonly #meter: Meter
  #kept: KeepingSink
  #ends: Ends | undefined
  #problem: string | undefined
  #states: Uint8Array | undefined

  private constructor(file: FileBytes, offset: number, front: Front, context: TransferContext, meter: Meter) {
    this.file = file
    this.offset = offset
    this.front = front
    this.#context = context
    this.#meter = meter
    this.#kept = new KeepingSink(context.slots, false)
    this.#problem = front.problem
  }

  /** @throws IoError, FormatError for what is no file */
  static async open(
    { file: place, offset, direct }: InspectedFile,
    context: TransferContext,
    meter: Meter,
  ): Promise<Inspection> {
    const file = await FileBytes.open(context.slots, place, direct, context.fdTaken)
    try {
      return new Inspection(file, offset, await lookAtFront(file, offset), context, meter)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** Why it could not be loaded; undefined as far as it was read. */
  get problem(): string | undefined {
    return this.#problem
  }
  get head(): ImageHead | undefined {
    return this.#kept.head
  }
  get places(): readonly BlockPlace[] {
    return this.#kept.places
  }
  get early(): readonly Uint8Array[] {
    return this.#kept.kept
  }
  get ends(): Ends | undefined {
    return this.#ends
  }
  get tailLength(): number {
    return this.#kept.tailLength
  }
  get changed(): number {
    return this.#kept.changed
  }
  /** SHA-256 of the states; undefined when it was not read to its end. */
  get states(): Uint8Array | undefined {
    return this.#states
  }

  tailBytes(): Uint8Array | undefined {
    return this.#kept.tailBytes()
  }

  /**
   * Reads it to its end, or to where it cannot be read on, which is a `problem`.
   * @param digests  of all pages are wanted
   * @throws IoError, Cancelled
   */
  async read(digests: boolean): Promise<void> {
    const { image } = this.front
    if (image === undefined) return
    const sink = new KeepingSink(this.#context.slots, digests)
    this.#kept = sink
    const all = image.layout === 'stream' || digests
    if (all) this.#meter.expect(Math.min(this.file.allocated, this.file.length - image.base))
    const read = (bytes: number) => this.#meter.read(bytes)
    const reading = { file: this.file, image, sink, pages: digests, context: this.#context, read }
    const [ends, problem] = await attempt(() => readImage(reading))
    this.#ends = ends
    this.#problem = problem
    if (ends !== undefined) this.#states = sink.states()
  }

  /** Names of commands in front of the end of RAM. */
  commands(): string[] {
    return this.early.flatMap((bytes) => {
      const head = parseHead(bytes)?.value
      return head?.kind === 'command' ? [head.command.name] : []
    })
  }

  /** Sections of dirty bitmaps that began early and end in the tail, by id. */
  openSections(): ReadonlyMap<number, string> {
    const open = new Map<number, string>()
    for (const bytes of this.early) {
      const head = parseHead(bytes)?.value
      if (head?.kind === 'start') open.set(head.id, head.name)
      if (head?.kind === 'end') open.delete(head.id)
    }
    return open
  }

  async close(): Promise<void> {
    await this.file.close()
  }
}
