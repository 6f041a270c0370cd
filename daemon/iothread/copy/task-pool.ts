// SPDX-License-Identifier: Apache-2.0
// Task pool: runs a limited number of asynchronous tasks at once. One loop decides and starts, many pieces of I/O are
// under way. Used by the mirror and by every request that falls apart into scattered pieces.
// Invariant: a failed task stops nothing by itself; its error is kept and thrown by the next start() or idle().

export class TaskPool {
  readonly #limit: number
  #running = 0
  #failure: { readonly error: unknown } | undefined
  #waiting: (() => void)[] = []

  /** @param limit  tasks at once, at least 1 */
  constructor(limit: number) {
    this.#limit = Math.max(1, limit)
  }

  get running(): number {
    return this.#running
  }

  /** Starts a task, waiting for room first. Throws the error of an earlier task that failed. */
  async start(task: () => Promise<void>): Promise<void> {
    while (this.#running >= this.#limit && this.#failure === undefined) await this.#change()
    this.#throwFailure()
    this.#running++
    task().then(
      () => this.#ended(),
      (error: unknown) => {
        this.#failure ??= { error }
        this.#ended()
      },
    )
  }

  /** Waits until one of the running tasks has ended; returns at once when none runs. */
  async next(): Promise<void> {
    if (this.#running > 0) await this.#change()
  }

  /** Waits until no task runs; does not throw, so that it can stand in a `finally`. */
  async settle(): Promise<void> {
    while (this.#running > 0) await this.#change()
  }

  /** Waits until no task runs, then throws the first error if any task failed. */
  async idle(): Promise<void> {
    await this.settle()
    this.#throwFailure()
  }

  /** Waits until room for one more task is there, or a task failed. */
  async room(): Promise<void> {
    while (this.#running >= this.#limit && this.#failure === undefined) await this.#change()
    this.#throwFailure()
  }

  #ended(): void {
    this.#running--
    const waiting = this.#waiting
    this.#waiting = []
    for (const wake of waiting) wake()
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error
  }
}
