// SPDX-License-Identifier: Apache-2.0
// A sink in front of a file's: has the source make digests of all pages, and writes them beside the file.
//
//   digests written and flushed, without a name ─▶ image durable under its name ─▶ digests get theirs
//
// In this order a full disk is told before the image has its name, and no digests are ever there without their image. A crash in
// between leaves a complete image with no digests or those of the file it replaced, which the digest of the states tells apart.

import { type DigestWriter, freshDigests } from './digest-file.js'
import type { BlockPlace, ImageHead, MemorySink, PageBatch } from './image.js'
import { StatesDigest } from './states-digest.js'

export class DigestSink implements MemorySink {
  readonly #sink: MemorySink
  readonly #writer: DigestWriter
  readonly #states = new StatesDigest()
  readonly #ended: (leftOut: string | undefined) => void
  #begun: { readonly head: ImageHead; readonly places: readonly BlockPlace[] } | undefined
  /** Why there will be none though they were wanted. */
  #leftOut: string | undefined

  /** @param ended  told when the image is whole, and why there are no digests if there are none */
  constructor(sink: MemorySink, writer: DigestWriter, ended: (leftOut: string | undefined) => void) {
    this.#sink = sink
    this.#writer = writer
    this.#ended = ended
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const given = await this.#sink.begin(head)
    const places = given.map((place, index) => ({
      ...place,
      digests: freshDigests(head.blocks[index]?.length ?? 0, head.pageSize),
    }))
    this.#begun = { head, places }
    return places
  }

  pages(batch: PageBatch): Promise<void> {
    return this.#sink.pages(batch)
  }
  undigested(why: string): void {
    this.#leftOut = why
  }
  endsAfter(bytes: number): void {
    this.#sink.endsAfter?.(bytes)
  }
  barrier(): Promise<void> {
    return this.#sink.barrier()
  }
  async early(bytes: Uint8Array): Promise<void> {
    this.#states.early(bytes)
    await this.#sink.early(bytes)
  }
  pagesDone(): Promise<void> {
    return this.#sink.pagesDone()
  }
  async tail(bytes: Uint8Array): Promise<void> {
    this.#states.tail(bytes)
    await this.#sink.tail(bytes)
  }

  async finish(): Promise<void> {
    const known = this.#leftOut === undefined
    if (known) await this.#write()
    await this.#sink.finish()
    if (known) await this.#writer.complete()
    else await this.#writer.abort()
    this.#ended(this.#leftOut)
  }

  /** Neither waits for the other. */
  async abort(): Promise<void> {
    await Promise.all([this.#writer.abort(), this.#sink.abort()])
  }

  async #write(): Promise<void> {
    if (this.#begun === undefined) throw new Error('the sink has not begun')
    await this.#writer.write({ ...this.#begun, states: this.#states.finish() })
  }
}
