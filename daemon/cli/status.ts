// SPDX-License-Identifier: Apache-2.0
// How the command ends: exit statuses and the errors that carry them. Thrown anywhere in cli/, turned into one line
// on stderr and the status in main.ts. Documented in docs/guide.md.

export const exitStatus = {
  ok: 0,
  failed: 1,
  usage: 2,
  noConnection: 3,
  interrupted: 130,
} as const

/** Ends the command: `message` is the line for stderr (without the 'blockferry: '), undefined when all is said. */
export class CliError extends Error {
  override readonly name = 'CliError'

  constructor(
    readonly status: number,
    message?: string,
    options?: ErrorOptions,
  ) {
    super(message ?? '', options)
  }
}

export function failed(message: string, options?: ErrorOptions): CliError {
  return new CliError(exitStatus.failed, message, options)
}

export function usage(message: string): CliError {
  return new CliError(exitStatus.usage, message)
}

export function noConnection(message: string, options?: ErrorOptions): CliError {
  return new CliError(exitStatus.noConnection, message, options)
}
