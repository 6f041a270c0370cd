// SPDX-License-Identifier: Apache-2.0
// From the options of memory commands to the arguments of their jobs. Paths are made absolute: the daemon may run elsewhere.

import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { CommandArguments } from '../client.js'
import { failed, usage } from '../status.js'

/** How the target is written. */
export interface TargetOptions {
  readonly offset?: number
  readonly direct: boolean
  readonly channels?: number
  readonly flush?: 'full' | 'data' | 'none'
  /** File with the XML of the domain. */
  readonly xml?: string
  readonly paused: boolean
  readonly digests: boolean
  readonly ram: readonly string[]
  readonly rename: readonly string[]
  readonly rate?: number
}

/** @throws CliError */
export async function targetArguments(options: TargetOptions): Promise<CommandArguments> {
  const { offset, direct, channels, flush, xml, paused, digests, rate } = options
  if (xml === undefined && paused) throw usage('--paused goes with --xml')
  return {
    ...{ offset, channels, flush },
    'direct-io': direct,
    'max-bandwidth': rate,
    digests: digests ? true : undefined,
    ...(xml !== undefined && { xml: await textIn(xml), 'was-running': !paused }),
    ...changes(options),
  }
}

/** `--ram BLOCK=FILE` and `--rename FROM=TO`. */
export function changes({ ram, rename }: Pick<TargetOptions, 'ram' | 'rename'>): CommandArguments {
  const files = ram.map((text) => pair(text, '--ram', 'BLOCK=FILE'))
  return {
    ...(files.length > 0 && { ram: files.map(([block, file]) => ({ block, file: placeOf(file) })) }),
    ...renames(rename),
  }
}

export function renames(rename: readonly string[]): CommandArguments {
  const names = rename.map((text) => pair(text, '--rename', 'FROM=TO'))
  return names.length === 0 ? {} : { rename: names.map(([from, to]) => ({ from, to })) }
}

/** A file for the daemon: sets of descriptors stay as they are. */
export function placeOf(file: string): string {
  return file.startsWith('/dev/fdset/') ? file : resolve(file)
}

/** An address for the daemon: `unix:` and `file:` are relative to where the command runs. @throws CliError */
export function addressOf(uri: string): string {
  if (!/^(unix|file|fd):.|^tcp:.*:./s.test(uri))
    throw usage(`an address is unix:PATH or tcp:HOST:PORT, found '${uri}'`)
  const [, transport = '', path = ''] = /^(unix|file):(.*)$/s.exec(uri) ?? []
  return transport === '' ? uri : `${transport}:${resolve(path)}`
}

function pair(text: string, option: string, expected: string): [string, string] {
  const equals = text.indexOf('=')
  if (equals <= 0 || equals === text.length - 1) throw usage(`${option} expects ${expected}, found '${text}'`)
  return [text.slice(0, equals), text.slice(equals + 1)]
}

/** XML of a domain. */
async function textIn(file: string): Promise<string> {
  const bytes = await readFile(file).catch((cause: Error) => {
    throw failed(`cannot read '${file}': ${cause.message}`, { cause })
  })
  const text = utf8In(bytes)
  if (text === undefined || !text.includes('<domain'))
    throw failed(`'${file}' is not the XML of a domain: '<domain' is expected in it, in UTF-8`)
  return text
}

/** Text that JSON can carry; undefined for bytes that are none. */
function utf8In(bytes: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return /\0|\p{Noncharacter_Code_Point}/u.test(text) ? undefined : text
  } catch {
    return undefined
  }
}
