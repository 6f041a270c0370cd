// SPDX-License-Identifier: Apache-2.0
// An image's facts as people read them, in the layout of qemu-img info. Pure; used by info.ts.

import type { JsonObject, JsonValue } from '../../protocol/json-value.js'
import { asList, asObject, flagOf, numberOf, objectsOf, textOf } from './values.js'

const units = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']

/** One layer, each line ended. */
export function humanInfo(layer: JsonObject): string {
  const size = numberOf(layer, 'virtual-size') ?? 0
  const used = numberOf(layer, 'actual-size')
  const lines = [
    `image: ${textOf(layer, 'filename') ?? ''}`,
    `file format: ${textOf(layer, 'format') ?? 'unknown'}`,
    `virtual size: ${sizeText(size)} (${size} bytes)`,
    `disk size: ${used === undefined ? 'unavailable' : sizeText(used)}`,
  ]
  if (flagOf(layer, 'encrypted')) lines.push('encrypted: yes')
  const cluster = numberOf(layer, 'cluster-size')
  if (cluster !== undefined) lines.push(`cluster_size: ${cluster}`)
  if (flagOf(layer, 'dirty-flag')) lines.push('cleanly shut down: no')
  lines.push(...backingLines(layer), ...snapshotLines(objectsOf(layer.snapshots)))
  const specific = asObject(asObject(layer['format-specific'])?.data)
  if (specific !== undefined && Object.keys(specific).length > 0)
    lines.push('Format specific information:', ...dump(specific, 1))
  return lines.map((line) => `${line}\n`).join('')
}

function backingLines(layer: JsonObject): string[] {
  const backing = textOf(layer, 'backing-filename')
  if (backing === undefined) return []
  const full = textOf(layer, 'full-backing-filename')
  const where = full === undefined || full === backing ? '' : ` (actual path: ${full})`
  const format = textOf(layer, 'backing-filename-format')
  return [
    `backing file: ${backing}${where}`,
    ...(format === undefined ? [] : [`backing file format: ${format}`]),
  ]
}

function snapshotLines(snapshots: readonly JsonObject[]): string[] {
  if (snapshots.length === 0) return []
  const row = (id: string, tag: string, size: string, date: string, clock: string, count: string) =>
    `${id.padEnd(10)}${tag.padEnd(17)}${size.padStart(8)}${date.padStart(20)}${clock.padStart(13)}${count.padStart(11)}`
  return [
    'Snapshot list:',
    row('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'),
    ...snapshots.map((one) =>
      row(
        textOf(one, 'id') ?? '',
        textOf(one, 'name') ?? '',
        sizeText(numberOf(one, 'vm-state-size') ?? 0),
        dateText(numberOf(one, 'date-sec') ?? 0),
        clockText(numberOf(one, 'vm-clock-sec') ?? 0, numberOf(one, 'vm-clock-nsec') ?? 0),
        String(numberOf(one, 'icount') ?? ''),
      ),
    ),
  ]
}

/** Members line by line, what is inside them further to the right. Names lose their hyphens, as people write them. */
function dump(value: JsonValue, depth: number): string[] {
  const object = asObject(value)
  const entries: [string, JsonValue][] =
    object === undefined
      ? asList(value).map((item, index) => [`[${index}]`, item])
      : Object.entries(object).map(([name, item]) => [name.replaceAll('-', ' '), item])
  const margin = '    '.repeat(depth)
  return entries.flatMap(([name, item]) => {
    const nested = asObject(item) !== undefined || Array.isArray(item)
    return nested ? [`${margin}${name}:`, ...dump(item, depth + 1)] : [`${margin}${name}: ${String(item)}`]
  })
}

/** 201326592 → '192 MiB': three digits that count, the next unit from 1000 on. */
export function sizeText(bytes: number): string {
  let power = 0
  while (bytes / 1024 ** power >= 1000 && power < units.length - 1) power++
  return `${Number((bytes / 1024 ** power).toPrecision(3))} ${units[power]}B`
}

/** In local time. */
function dateText(seconds: number): string {
  const date = new Date(seconds * 1000)
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(two).join('-')
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`
}

function clockText(seconds: number, nanoseconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  return `${parts.map(two).join(':')}.${String(Math.floor(nanoseconds / 1e6)).padStart(3, '0')}`
}

function two(number: number): string {
  return String(number).padStart(2, '0')
}
