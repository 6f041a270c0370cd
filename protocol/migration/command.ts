// SPDX-License-Identifier: Apache-2.0
// Commands between sections, and what becomes of each when a stream is converted.
// Source: enum qemu_vm_cmd and mig_cmd_args in QEMU 10.0, migration/savevm.c.
//
//   08 | be16 command | be16 length | payload

import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { hex } from './error-text.js'
import { refusals } from './refusals.js'
import { SectionType } from './section-type.js'

/** With the lengths their payloads may have; undefined: any. */
const commands = {
  OPEN_RETURN_PATH: { number: 1, lengths: [0] },
  PING: { number: 2, lengths: [4] },
  /** Empty with dirty-bitmaps alone; else the page sizes of all blocks, and the target's. */
  POSTCOPY_ADVISE: { number: 3, lengths: [0, 16] },
  POSTCOPY_LISTEN: { number: 4, lengths: [0] },
  POSTCOPY_RUN: { number: 5, lengths: [0] },
  POSTCOPY_RAM_DISCARD: { number: 6, lengths: undefined },
  /** As many bytes as the payload says follow, outside the command. */
  PACKAGED: { number: 7, lengths: [4] },
  ENABLE_COLO: { number: 8, lengths: [0] },
  POSTCOPY_RESUME: { number: 9, lengths: [0] },
  RECV_BITMAP: { number: 10, lengths: undefined },
  /** Machine types since 10.0, in front of the first END. QEMU 7.2 refuses it. */
  SWITCHOVER_START: { number: 11, lengths: [0] },
} as const

export type CommandName = keyof typeof commands

export interface Command {
  readonly name: CommandName
  /** A view of the bytes that were parsed. */
  readonly payload: Uint8Array
}

/** `refuse`: a stream with this command can be neither converted nor stored. */
export type CommandFate =
  | { readonly kind: 'keep' }
  | { readonly kind: 'drop' }
  | { readonly kind: 'refuse'; readonly reason: string }

const byNumber: ReadonlyMap<number, CommandName> = new Map(
  Object.entries(commands).map(([name, { number }]) => [number, name as CommandName]),
)

/** @throws FormatError for numbers and lengths that QEMU 10.0 does not know */
export function parseCommand(bytes: Uint8Array, origin = 0): Parsed<Command> | undefined {
  return parsePrefix(bytes, origin, (reader) => {
    const type = reader.u8()
    if (type === SectionType.command) return readCommand(reader)
    throw reader.wrong('type of a command', hex(type), hex(SectionType.command))
  })
}

/** What follows the type byte. */
export function readCommand(reader: Reader): Command {
  const number = reader.u16()
  const name = byNumber.get(number)
  if (name === undefined) throw reader.wrong('number of a command', number, `1 to ${byNumber.size}`)
  const length = reader.u16()
  const lengths: readonly number[] | undefined = commands[name].lengths
  if (lengths !== undefined && !lengths.includes(length))
    throw reader.wrong(`payload of command ${name}`, `${length} bytes`, `${lengths.join(' or ')} bytes`)
  return { name, payload: reader.take(length) }
}

export function formatCommand({ name, payload }: Command): Uint8Array {
  const { number } = commands[name]
  return new Writer().u8(SectionType.command).u16(number).u16(payload.length).raw(payload).finish()
}

/**
 * What to do with a command when a stream is converted. To keep: it stands in front of END of RAM afterwards too.
 * A live source that opens a return path is another matter: it waits for answers, see waitsForAnswers().
 */
export function commandFate(command: Command): CommandFate {
  switch (command.name) {
    case 'OPEN_RETURN_PATH':
    case 'PING':
      return { kind: 'drop' }
    case 'POSTCOPY_ADVISE':
      return { kind: advisesPostcopyRam(command) ? 'drop' : 'keep' }
    case 'SWITCHOVER_START':
      return { kind: 'keep' }
    case 'POSTCOPY_LISTEN':
    case 'POSTCOPY_RUN':
    case 'POSTCOPY_RAM_DISCARD':
    case 'PACKAGED':
      return { kind: 'refuse', reason: refusals.postcopy }
    case 'POSTCOPY_RESUME':
    case 'RECV_BITMAP':
      return { kind: 'refuse', reason: refusals.recovery }
    case 'ENABLE_COLO':
      return { kind: 'refuse', reason: refusals.colo }
    default:
      return command.name satisfies never
  }
}

/**
 * The source has capability return-path or postcopy-ram. Unless it is answered it hangs at the end with its guest
 * stopped (QEMU 10.0), and no answer suits every version. A file that holds the command loads all the same.
 */
export function waitsForAnswers({ name }: Command): boolean {
  return name === 'OPEN_RETURN_PATH'
}

/** Capability postcopy-ram is on: blocks of huge pages say their page size in the block list. */
export function advisesPostcopyRam({ name, payload }: Command): boolean {
  return name === 'POSTCOPY_ADVISE' && payload.length > 0
}
