// SPDX-License-Identifier: Apache-2.0
// Options and values that several commands have. Used by program.ts and program-tools.ts.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { parseSize, sizeProblem } from '../common/units.js'
import { cacheModes } from './cache-modes.js'
import { CliError, exitStatus, usage } from './status.js'

export const embedded = 'socket of a running daemon; without it the command runs a daemon of its own'

export function logLevel(): Option {
  return new Option('--log-level <level>', "show the own daemon's log on stderr").choices([
    'error',
    'warn',
    'info',
    'debug',
    'trace',
  ])
}

export function aioOption(): Option {
  return new Option('--aio <engine>', 'I/O engine of the own daemon').choices(['auto', 'threads', 'io_uring'])
}

/** `-t` and `-T` of QEMU's programs. */
export function cacheOption(flags: string, what: string): Option {
  return new Option(`${flags} <cache>`, what).choices([...cacheModes])
}

/** @throws InvalidArgumentError, which commander tells as a usage error */
export function size(text: string): number {
  const bytes = parseSize(text)
  if (bytes === undefined)
    throw new InvalidArgumentError(`Expected ${sizeProblem(text, '4096, 512k, 100M or 1.5G')}.`)
  return bytes
}

/** Of an option that may be repeated. */
export function collect(text: string, before: readonly string[]): string[] {
  return [...before, text]
}

/** @throws InvalidArgumentError */
export function wholeNumber(text: string): number {
  if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(Number(text)))
    throw new InvalidArgumentError('Expected a whole number.')
  return Number(text)
}

/** Of a command where status 2 says what it found: a command line that makes no sense ends it with 1. */
export function usageFails(command: Command): Command {
  return command.exitOverride((error) => {
    throw error.exitCode === 0 ? error : new CliError(exitStatus.failed)
  })
}

/** An argument that only help does without. @throws CliError (usage) */
export function given(value: string | undefined, name: string): string {
  if (value === undefined) throw usage(`missing required argument '${name}'`)
  return value
}
