// SPDX-License-Identifier: Apache-2.0
// `blockferry memory diff`: which pages of two files differ. Exit statuses are those of diff: 0 alike, 1 different, 2 trouble.

import type { JsonObject } from '../../../protocol/json-value.js'
import { spread } from '../indented.js'
import { CliError, exitStatus } from '../status.js'
import { table } from '../table.js'
import { flagOf, numberOf, objectsOf, textOf } from '../values.js'
import { type InspectOptions, inspect } from './inspect.js'
import { placeOf } from './requests.js'

export interface DiffOptions extends InspectOptions {
  readonly otherOffset?: number
}

const status = { different: 1, trouble: 2 } as const

export async function diff(one: string, other: string, options: DiffOptions): Promise<void> {
  const found = await looked(one, other, options)
  if (options.json) process.stdout.write(`${spread({ one, other, ...found })}\n`)
  else if (!options.quiet) process.stdout.write(diffText(found))
  if (!flagOf(found, 'identical')) throw new CliError(status.different)
}

async function looked(one: string, other: string, options: DiffOptions): Promise<JsonObject> {
  try {
    const more = { other: placeOf(other), 'other-offset': options.otherOffset }
    return await inspect('diff', one, options, more)
  } catch (error) {
    if (!(error instanceof CliError) || error.status !== exitStatus.failed) throw error
    throw new CliError(status.trouble, error.message, { cause: error })
  }
}

/** As people read it, each line ended. */
export function diffText(found: JsonObject): string {
  const blocks = objectsOf(found.blocks)
  const odd = blocks.filter((block) => isOdd(block))
  const how = textOf(found, 'method') === 'content' ? 'byte for byte' : 'by the CRC-32C of each page'
  const states = textOf(found, 'states') === 'alike' ? 'alike' : 'different'
  const last = `compared ${how}; the states of devices are ${states}\n`
  if (odd.length === 0) return `memory is alike in all ${blocks.length} blocks\n${last}`
  const pageSize = numberOf(found, 'page-size') ?? 0
  const rows = odd.map((block) => [
    textOf(block, 'name') ?? '',
    String(numberOf(block, 'pages-different') ?? 0),
    String(Math.max(length(block, 'length'), length(block, 'other-length')) / pageSize),
    String(numberOf(block, 'first-offset') ?? '-'),
    lengthNote(block),
  ])
  const head = ['block', 'pages different', 'of', 'first at', '']
  return `${table(head, rows, ['left', 'right', 'right', 'right', 'left'])}${last}`
}

function isOdd(block: JsonObject): boolean {
  return (
    numberOf(block, 'pages-different') !== 0 || numberOf(block, 'length') !== numberOf(block, 'other-length')
  )
}

function lengthNote(block: JsonObject): string {
  const [mine, theirs] = [numberOf(block, 'length'), numberOf(block, 'other-length')]
  if (mine === theirs) return ''
  if (mine === undefined) return 'only in the second'
  if (theirs === undefined) return 'only in the first'
  return `${mine} bytes in the first, ${theirs} in the second`
}

function length(block: JsonObject, name: string): number {
  return numberOf(block, name) ?? 0
}
