// SPDX-License-Identifier: Apache-2.0
// `blockferry memory verify`: whether a file of memory is sound, and what it was when it was written. Exit statuses are those of
// `blockferry check`: 0 good, 1 it could not be checked, 2 damaged.

import type { JsonObject } from '../../../protocol/json-value.js'
import { spread } from '../indented.js'
import { CliError } from '../status.js'
import { flagOf, numberOf, objectsOf, textOf } from '../values.js'
import { type InspectOptions, inspect } from './inspect.js'
import { placeOf } from './requests.js'

export interface VerifyOptions extends InspectOptions {
  /** File of checksums. */
  readonly digests?: string
}

/** What stands in the way of a check is no damage. */
const status = { good: 0, unchecked: 1, damaged: 2 } as const
type Status = (typeof status)[keyof typeof status]

interface Verdict {
  readonly status: Status
  readonly lines: readonly string[]
}

export async function verify(file: string, options: VerifyOptions): Promise<void> {
  const { digests, json, quiet } = options
  const more = digests === undefined ? {} : { digests: placeOf(digests) }
  const found = await inspect('verify', file, options, more)
  const { status: ends, lines } = verdict(file, found, digests !== undefined)
  if (json) process.stdout.write(`${spread({ file, good: ends === status.good, ...found })}\n`)
  else if (!quiet) process.stdout.write(lines.map((line) => `${line}\n`).join(''))
  if (ends !== status.good) throw new CliError(ends)
}

/** @param named  the checksums were named: then there have to be some */
export function verdict(file: string, found: JsonObject, named: boolean): Verdict {
  const format = textOf(found, 'format')
  if (!flagOf(found, 'sound'))
    return { status: status.damaged, lines: [`'${file}' is not sound: ${textOf(found, 'problem') ?? ''}`] }
  const sound = `'${file}' is sound in its structure (${format})`
  const checks = checksums(found, named)
  return { status: checks.status, lines: [sound, ...checks.lines] }
}

function checksums(found: JsonObject, named: boolean): Verdict {
  const name = textOf(found, 'digests-file')
  const problem = textOf(found, 'checksums-problem') ?? ''
  switch (textOf(found, 'checksums')) {
    case 'checked':
      return checked(found, name ?? '')
    case 'other':
      return {
        status: status.unchecked,
        lines: [`the checksums in '${name}' are of another image: ${problem}`],
      }
    case 'damaged':
      return {
        status: status.unchecked,
        lines: [`the checksums cannot be used, pages were not checked: ${problem}`],
      }
    case 'impossible':
      return {
        status: status.unchecked,
        lines: ['pages came as changes to what was sent before (XBZRLE), which have no checksums here'],
      }
    default:
      return {
        status: named ? status.unchecked : status.good,
        lines: [
          `no checksums${name === undefined ? '' : `: there is no '${name}'`}; what is in the pages was not checked`,
        ],
      }
  }
}

function checked(found: JsonObject, name: string): Verdict {
  const pages = numberOf(found, 'pages-checked') ?? 0
  const different = numberOf(found, 'pages-different') ?? 0
  const states = textOf(found, 'states') === 'alike'
  if (different === 0 && states)
    return {
      status: status.good,
      lines: [`all ${pages} pages and the states of devices have their checksums`],
    }
  const lines = objectsOf(found.blocks).map(blockLine)
  if (different > 0) lines.unshift(`${different} of ${pages} pages differ from their checksums in '${name}'`)
  if (!states && different > 0)
    lines.push('the states of devices differ too: the checksums may be of another image')
  if (!states && different === 0)
    lines.push(
      `all ${pages} pages have their checksums, the states of devices differ from theirs in '${name}'`,
    )
  return { status: status.damaged, lines }
}

function blockLine(block: JsonObject): string {
  const count = numberOf(block, 'pages-different') ?? 0
  const ranges = objectsOf(block.ranges)
  const texts = ranges.map((range) => `${numberOf(range, 'offset')}+${numberOf(range, 'length')}`)
  const more = flagOf(block, 'more-ranges') ? ' …' : ''
  return `block ${textOf(block, 'name')}: ${count} ${count === 1 ? 'page' : 'pages'}, at ${texts.join(', ')}${more}`
}
