// SPDX-License-Identifier: Apache-2.0
// Who wants to hear of changes of one node, before or after them. Used by BlockNode only.

export type DirtyListener = (offset: number, length: number) => void
export type BeforeWrite = (offset: number, length: number) => Promise<void>

/** The list of whoever has told nobody yet, and of a node without hooks. */
export const NOBODY: readonly BeforeWrite[] = []

export class Watchers {
  /** Replaced when it changes: whoever was told by an older list has not told everybody. */
  before: readonly BeforeWrite[] = NOBODY
  readonly #after: DirtyListener[] = []

  get none(): boolean {
    return this.#after.length + this.before.length === 0
  }

  addBefore(hook: BeforeWrite): Disposable {
    this.before = [...this.before, hook]
    return {
      [Symbol.dispose]: () => {
        const left = this.before.filter((other) => other !== hook)
        this.before = left.length === 0 ? NOBODY : left
      },
    }
  }

  addAfter(listener: DirtyListener): Disposable {
    this.#after.push(listener)
    return {
      [Symbol.dispose]: () => {
        const index = this.#after.indexOf(listener)
        if (index >= 0) this.#after.splice(index, 1)
      },
    }
  }

  /** The range changed, or may have. */
  tell(offset: number, length: number): void {
    for (const listener of this.#after) listener(offset, length)
  }
}
