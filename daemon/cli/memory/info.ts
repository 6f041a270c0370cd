// SPDX-License-Identifier: Apache-2.0
// `blockferry memory info`: what a file of memory is and what is in it, as far as it goes.

import type { JsonObject } from '../../../protocol/json-value.js'
import { formatSize } from '../../common/units.js'
import { spread } from '../indented.js'
import { failed } from '../status.js'
import { table } from '../table.js'
import { asList, asObject, flagOf, numberOf, objectsOf, textOf } from '../values.js'
import { type InspectOptions, inspect } from './inspect.js'

export async function memoryInfo(file: string, options: InspectOptions): Promise<void> {
  const found = await inspect('info', file, options)
  if (options.json) process.stdout.write(`${spread({ file, ...found })}\n`)
  else if (!options.quiet) process.stdout.write(infoText(file, found))
  if (textOf(found, 'format') === undefined)
    throw failed(`'${file}' is no image of memory: ${textOf(found, 'problem') ?? 'its format is not known'}`)
}

/** As people read it, each line ended. */
export function infoText(file: string, found: JsonObject): string {
  const lines = [
    `file: ${file}`,
    `format: ${textOf(found, 'format') ?? 'unknown'}`,
    `file size: ${bytes(found, 'file-size')}, ${formatSize(numberOf(found, 'allocated-size') ?? 0)} allocated`,
    `image: at offset ${numberOf(found, 'offset') ?? 0}${streamText(found)}`,
    `complete: ${flagOf(found, 'complete') ? 'yes' : `no: ${textOf(found, 'problem') ?? ''}`}`,
    ...missingLines(found),
    ...headLines(found),
    ...libvirtLines(asObject(found.libvirt)),
  ]
  const text = lines.map((line) => `${line}\n`).join('')
  return text + blocksText(found) + statesText(found)
}

function streamText(found: JsonObject): string {
  const at = numberOf(found, 'stream-offset')
  return at === undefined || at === numberOf(found, 'offset') ? '' : `, its stream at ${at}`
}

function missingLines(found: JsonObject): string[] {
  const missing = numberOf(found, 'missing-bytes')
  return missing === undefined ? [] : [`missing: at least ${bytes(found, 'missing-bytes')} at the end`]
}

function headLines(found: JsonObject): string[] {
  const machine = textOf(found, 'machine')
  if (machine === undefined) return []
  const capabilities = asList(found.capabilities).map(String)
  const hints = objectsOf(found.hints).map(
    (hint) => `${textOf(hint, 'at-least')} or later (${textOf(hint, 'because')})`,
  )
  const uuid = textOf(found, 'uuid')
  return [
    `machine type: ${machine}`,
    ...(hints.length > 0 ? [`QEMU, by hints: ${hints.join(', ')}`] : []),
    ...(numberOf(found, 'page-size') === undefined ? [] : [`page size: ${numberOf(found, 'page-size')}`]),
    `capabilities: ${capabilities.join(', ') || 'none listed'}`,
    ...(uuid === undefined ? [] : [`UUID: ${uuid}`]),
  ]
}

function libvirtLines(libvirt: JsonObject | undefined): string[] {
  if (libvirt === undefined) return []
  const name = textOf(libvirt, 'name') ?? 'without a name'
  const state = flagOf(libvirt, 'was-running') ? 'was running' : 'was paused'
  return [`libvirt: domain ${name}, ${state}${flagOf(libvirt, 'complete') ? '' : ', its save did not end'}`]
}

function blocksText(found: JsonObject): string {
  const blocks = objectsOf(found.blocks)
  if (blocks.length === 0) return ''
  const rows = blocks.map((block) => [
    textOf(block, 'name') ?? '',
    ...['length', 'set-pages', 'zero-pages', 'pages-offset'].map((name) => cell(block, name)),
  ])
  const head = ['block', 'length', 'pages set', 'pages zero', 'pages at']
  const changed = numberOf(found, 'changed-pages')
  const note =
    changed === undefined ? '' : `${changed} pages came as changes to what was sent before (XBZRLE)\n`
  return `\n${table(head, rows, ['left', 'right', 'right', 'right', 'right'])}${note}`
}

function statesText(found: JsonObject): string {
  const all = [...objectsOf(found.early), ...objectsOf(found.sections)]
  const commands = asList(found.commands).map(String)
  const [at, problem] = [numberOf(found, 'states-offset'), textOf(found, 'sections-problem')]
  const rows = all.map((section) => [
    textOf(section, 'name') ?? '',
    ...['instance', 'version', 'offset', 'length'].map((name) => cell(section, name)),
  ])
  const head = ['section', 'instance', 'version', 'offset', 'length']
  return [
    ...(at === undefined ? [] : [`\nstates of devices: ${bytes(found, 'states-length')} at offset ${at}\n`]),
    ...(commands.length > 0 ? [`commands before them: ${commands.join(', ')}\n`] : []),
    ...(problem === undefined ? [] : [`${problem}\n`]),
    ...(rows.length > 0 ? [`\n${table(head, rows, ['left', 'right', 'right', 'right', 'right'])}`] : []),
  ].join('')
}

function cell(object: JsonObject, name: string): string {
  return String(numberOf(object, name) ?? '-')
}

function bytes(object: JsonObject, name: string): string {
  const value = numberOf(object, name) ?? 0
  return `${formatSize(value)} (${value} bytes)`
}
