// SPDX-License-Identifier: Apache-2.0
// Errors in words that the user knows: nodes that a command has made are called as their images, and what the daemon tells of
// damage in one of them is said, too. Used by the commands that open images.

import type { Daemon } from './daemon.js'
import { textOf } from './values.js'

export class DiskWords {
  /** Names of images, by node. */
  readonly #images = new Map<string, string>()
  /** What is wrong, by node. */
  readonly #damage = new Map<string, string>()
  /** Nobody else has images in the daemon. */
  readonly #alone: boolean
  readonly #stop: () => void

  constructor({ client, embedded }: Daemon) {
    this.#alone = embedded
    this.#stop = client.onEvent(({ name, data }) => {
      const [node, text] = [textOf(data, 'node-name'), textOf(data, 'msg')]
      if (name === 'BLOCK_IMAGE_CORRUPTED' && node !== undefined && text !== undefined)
        this.#damage.set(node, text)
    })
  }

  /** @param image  as the user named it */
  called(node: string, image: string): void {
    this.#images.set(node, image)
  }

  explain(error: string): string {
    let text = error
    for (const [node, image] of this.#images) text = text.replaceAll(mentionsOf(node), () => `'${image}'`)
    for (const [node, damage] of this.#damage) {
      const image = this.#images.get(node)
      if (image !== undefined) text += `; '${image}' is corrupt: ${damage}`
      else if (this.#alone) text += `; an image below is corrupt: ${damage}`
    }
    return text
  }

  end(): void {
    this.#stop()
  }
}

/** In quotes or bare, with the word before it. */
function mentionsOf(node: string): RegExp {
  return new RegExp(`(?:\\b[Nn]ode )?(?:'${node}'|(?<![-\\w'])${node}(?![-\\w']))`, 'g')
}
