// SPDX-License-Identifier: Apache-2.0
// Bounds for waiting: how long a test waits before it says what did not come. Never used to let time pass.

export interface Clock extends Disposable {
  readonly over: boolean
  /** Resolves when the time is over. */
  readonly end: Promise<void>
}

/** A bound of so many milliseconds from now. */
export function deadline(timeoutMs: number): Clock {
  let over = false
  let timer: NodeJS.Timeout | undefined
  const end = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      over = true
      resolve()
    }, timeoutMs)
  })
  return {
    get over() {
      return over
    },
    end,
    [Symbol.dispose]: () => clearTimeout(timer),
  }
}

/** Rejects with `what` when `promise` has not settled in time. */
export async function within<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  using clock = deadline(timeoutMs)
  return await Promise.race([
    promise,
    clock.end.then((): never => {
      throw new Error(`${what} did not come within ${timeoutMs} ms`)
    }),
  ])
}

/** Lets `milliseconds` pass; for pacing a probe or a poll of something that gives no event, never as synchronisation. */
export async function pace(milliseconds: number): Promise<void> {
  using clock = deadline(milliseconds)
  await clock.end
}
