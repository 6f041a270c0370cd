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
