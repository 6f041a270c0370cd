// SPDX-License-Identifier: Apache-2.0
// The images of a worker that are served over HTTP, by ticket. Part of the worker's table of exports.

import { CommandError } from '../../../errors.js'
import type { ImageRequests } from '../../messages-images.js'
import { type ImageEnv, ServedImage } from './served-image.js'

export interface ImageTableEnv extends ImageEnv {
  /** Memory is kept for clients until this is disposed. @throws CommandError when there is none */
  keepMemory(): Disposable
}

export class ImageTable {
  readonly #env: ImageTableEnv
  readonly #images = new Map<number, { readonly image: ServedImage; readonly memory: Disposable }>()
  /** Nothing is served of these any more, and their nodes are being given back: what was done is still asked for. */
  readonly #closing = new Map<number, ServedImage>()
  /** No request is for these any more. */
  readonly #leaving = new Set<ServedImage>()

  constructor(env: ImageTableEnv) {
    this.#env = env
  }

  /** Those that have ended and whose connections are here still among them. */
  get size(): number {
    return this.#images.size + this.#leaving.size
  }
  get clients(): number {
    const all = [...[...this.#images.values()].map(({ image }) => image), ...this.#leaving]
    return all.reduce((sum, { clients }) => sum + clients, 0)
  }

  readonly handlers = {
    'image-add': async (spec: ImageRequests['image-add']['args']) => {
      const memory = this.#env.keepMemory()
      try {
        const image = await ServedImage.open(spec, this.#env)
        this.#images.set(spec.key, { image, memory })
        // Goes on for as long as the ticket does.
        void image.watchExpiry()
      } catch (error) {
        memory[Symbol.dispose]()
        throw error
      }
      return null
    },
    'image-connect': ({ key, connection, fd, rest }: ImageRequests['image-connect']['args']) => {
      const found = this.#images.get(key)
      // Removed a moment ago: it is asked for anew.
      if (found === undefined) this.#env.report({ kind: 'image-left', connection, back: { fd, rest } })
      else found.image.connect(connection, fd, rest)
      return null
    },
    'image-status': ({ key }: ImageRequests['image-status']['args']) => this.#known(key).status(),
    'image-extend': async ({ key, timeout }: ImageRequests['image-extend']['args']) => {
      await this.#known(key).extend(timeout)
      return null
    },
    'image-retire': ({ key }: ImageRequests['image-retire']['args']) => {
      // `image-end` waits for what is under way.
      void this.#find(key).retire()
      return null
    },
    'image-end': async ({ key, stop }: ImageRequests['image-end']['args']) => {
      const image = this.#find(key)
      await (stop ? image.cancel() : image.retire())
      await this.#remove(key, image)
      return image.ticket.left
    },
    'image-expire': async ({ key }: ImageRequests['image-expire']['args']) => {
      const image = this.#find(key)
      if (!image.expired) {
        // It is reported anew.
        void image.watchExpiry()
        return null
      }
      // Nothing is under way.
      void image.retire()
      await this.#remove(key, image)
      return image.ticket.left
    },
  }

  /** Ends every client and gives the nodes back. */
  async close(): Promise<void> {
    const all = [...this.#images.values()]
    this.#images.clear()
    for (const image of this.#leaving) image.cutOff()
    await Promise.all(all.map(({ image }) => image.end()))
    for (const { memory } of all) memory[Symbol.dispose]()
  }

  async #remove(key: number, image: ServedImage): Promise<void> {
    const entry = this.#images.get(key)
    // Somebody else may have waited too.
    if (entry?.image !== image) return
    this.#images.delete(key)
    this.#closing.set(key, image)
    using _memory = entry.memory
    try {
      await this.#close(image)
    } finally {
      this.#closing.delete(key)
    }
  }

  /** Whoever ended it does not wait for what its clients owe. */
  async #close(image: ServedImage): Promise<void> {
    this.#leaving.add(image)
    const closed = image.close()
    // Its clients are cut off in the end, so it comes to that.
    void image.left().then(() => this.#leaving.delete(image))
    await closed
  }

  #find(key: number): ServedImage {
    return known(this.#images.get(key)?.image)
  }

  #known(key: number): ServedImage {
    return known(this.#images.get(key)?.image ?? this.#closing.get(key))
  }
}

function known(image: ServedImage | undefined): ServedImage {
  if (image === undefined) throw new CommandError('there is no such image')
  return image
}
