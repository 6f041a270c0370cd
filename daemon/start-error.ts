// SPDX-License-Identifier: Apache-2.0
// A daemon that cannot start: one line for standard error and the exit status.

/** Exit statuses, as sysexits and the reference daemon have them. */
export const Status = { failed: 1, usage: 2, config: 78 } as const

export class StartError extends Error {
  override readonly name = 'StartError'

  constructor(
    message: string,
    readonly status: number = Status.failed,
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** One line for what stops the start; anything but a StartError is a bug and shows its stack. @returns the exit status */
export function complain(error: unknown): number {
  const known = error instanceof StartError
  const text = known ? error.message : ((error as Error).stack ?? String(error))
  process.stderr.write(`blockferryd: ${text}\n`)
  return known ? error.status : Status.failed
}
