// SPDX-License-Identifier: Apache-2.0
// Reports: what the main thread knows of a node. Pure, but for reading counters.

import { isTransparent } from '../../common/filter-drivers.js'
import { fullName } from '../../common/image-name.js'
import type { FormatFacts, NodeReport, NodeSpec } from '../messages.js'
import { nbdFilename } from './drivers/nbd/address.js'
import { SECTOR } from './node.js'
import { type Child, type NodeRecord, type Records, ROLES } from './records.js'

/** Options that every node has: they are no part of a file name. */
const common = new Set([
  'driver',
  'node-name',
  'read-only',
  'auto-read-only',
  'force-share',
  'discard',
  'detect-zeroes',
  'cache',
  'active',
  'locking',
  'aio',
  'aio-max-batch',
  'pr-manager',
  'drop-cache',
  'implied',
  'named',
  'files',
  'credentials',
  'x-guessed',
])

export function nodeReport(record: NodeRecord, records: Records): NodeReport {
  const { node } = record
  const allocated = storage(record, records)
  const bitmaps = record.bitmap?.() ?? []
  const own = record.children.length === 0 ? record.facts : undefined
  const format = node.driver.format?.()
  const fullBacking = format === undefined ? undefined : backingName(format, record, records)
  return {
    name: node.name,
    driver: node.driver.type,
    children: Object.fromEntries(record.children.map((child) => [child.role, child.node.name])),
    filename: filename(record, records),
    readOnly: node.readOnly,
    size: Math.ceil(node.length() / SECTOR) * SECTOR,
    ...(allocated === undefined ? {} : { allocated }),
    cache: { direct: node.options.direct, noFlush: node.options.noFlush },
    detectZeroes: node.options.detectZeroes,
    ...(own === undefined ? {} : { identity: `${own.device}:${own.inode}` }),
    stats: { ...node.stats },
    ...(format === undefined ? {} : { format }),
    ...(fullBacking === undefined ? {} : { fullBacking }),
    dirtyBitmaps: [
      ...bitmaps.map((bitmap) => ({ recording: false, persistent: false, busy: false, ...bitmap })),
      ...node.bitmaps.reports(),
    ],
  }
}

/** Bytes in use of the storage below, backing files aside, where all of it can tell. blkdebug does not, as the peer's. */
function storage(record: NodeRecord, records: Records): number | undefined {
  const { node, children } = record
  if (node.driver.type === 'blkdebug') return undefined
  if (node.driver.type === 'null-co' || node.driver.type === 'null-aio') return 0
  if (children.length === 0) return record.facts?.allocated
  let sum = 0
  for (const { role, node: child } of children) {
    if (role === 'backing' || role === 'target') continue
    const below = records.find(child.name)
    const part = below && storage(below, records)
    if (part === undefined) return undefined
    sum += part
  }
  return sum
}

/** The backing file that the image names, as it is found from here. */
function backingName(format: FormatFacts, record: NodeRecord, records: Records): string | undefined {
  if (format.backingFile === undefined) return undefined
  const { path } = records.origin(record.node)
  return path === undefined ? undefined : fullName(path, format.backingFile)
}

/** A plain path where that says all; else `json:{…}` with what is needed to open the same again. */
function filename(record: NodeRecord, records: Records): string {
  const { spec, children } = record
  if (spec.driver === 'nbd') return nbdFilename(spec)
  if (children.length === 0) {
    return typeof spec.filename === 'string' ? spec.filename : `json:${spaced(pick(spec))}`
  }
  const [first] = isTransparent(spec.driver) ? children : told(record, records)
  const below = first && records.find(first.node.name)
  if (below === undefined) return ''
  return saysAll(record, below, records)
    ? filename(below, records)
    : `json:${spaced(definition(record, records))}`
}

/** The name of what is below gives the same image: the node adds nothing, or what a name of a file implies. */
function saysAll(record: NodeRecord, below: NodeRecord, records: Records): boolean {
  const { spec } = record
  if (isTransparent(spec.driver)) return true
  if (Object.keys(pick(spec)).length > 1 || told(record, records).length > 1 || spec.backing === null)
    return false
  return spec.driver === 'raw' || (spec.driver === 'qcow2' && below.children.length === 0)
}

/** Children but those that the image itself names. */
function told(record: NodeRecord, records: Records): Child[] {
  return record.children.filter(({ node }) => records.find(node.name)?.spec.implied !== true)
}

/** In the peer's order: backing, driver and options, storage. */
function definition(record: NodeRecord, records: Records): Record<string, unknown> {
  const backing: Record<string, unknown> = record.spec.backing === null ? { backing: null } : {}
  const others: Record<string, unknown> = {}
  for (const { role, node } of told(record, records)) {
    const below = records.find(node.name)
    if (below === undefined) continue
    const to = role === 'backing' ? backing : others
    to[role] = definition(below, records)
  }
  return { ...backing, ...pick(record.spec), ...others }
}

/** The driver and its own options, without the child; lists flattened to `name.0.member`. */
function pick(spec: NodeSpec): Record<string, unknown> {
  const picked: Record<string, unknown> = { driver: spec.driver }
  for (const [name, value] of Object.entries(spec)) {
    if (common.has(name) || ROLES.some((role) => role === name) || value === undefined) continue
    if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) {
        for (const [member, leaf] of Object.entries(item)) picked[`${name}.${index}.${member}`] = leaf
      }
    } else picked[name] = value
  }
  return picked
}

/** JSON as the peer writes it: a space after colon and comma. */
function spaced(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const members = Object.entries(value).map(([name, member]) => `${JSON.stringify(name)}: ${spaced(member)}`)
  return `{${members.join(', ')}}`
}
