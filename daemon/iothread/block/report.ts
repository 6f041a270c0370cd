// SPDX-License-Identifier: Apache-2.0
// Reports: what the main thread knows of a node. Pure, but for reading counters.

import type { NodeReport, NodeSpec } from '../messages.js'
import { SECTOR } from './node.js'
import type { NodeRecord, Records } from './records.js'

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
])

export function nodeReport(record: NodeRecord, records: Records): NodeReport {
  const { node } = record
  const facts = leafFacts(record, records)
  const bitmap = record.bitmap?.()
  const own = record.child === undefined ? record.facts : undefined
  return {
    name: node.name,
    driver: node.driver.type,
    children: record.child === undefined ? {} : { [record.child.role]: record.child.node.name },
    filename: filename(record, records),
    readOnly: node.readOnly,
    size: Math.ceil(node.length() / SECTOR) * SECTOR,
    ...(facts === undefined ? {} : { allocated: facts }),
    cache: { direct: node.options.direct, noFlush: node.options.noFlush },
    detectZeroes: node.options.detectZeroes,
    ...(own === undefined ? {} : { identity: `${own.device}:${own.inode}` }),
    stats: { ...node.stats },
    dirtyBitmaps: bitmap === undefined ? [] : [{ ...bitmap, recording: false, busy: false }],
  }
}

/** Bytes in use of the storage below, where it can tell. blkdebug does not, as the peer's. */
function leafFacts(record: NodeRecord, records: Records): number | undefined {
  const chain = records.chain(record.node)
  if (chain.some(({ node }) => node.driver.type === 'blkdebug')) return undefined
  const leaf = chain.at(-1)
  if (leaf?.node.driver.type === 'null-co' || leaf?.node.driver.type === 'null-aio') return 0
  return leaf?.facts?.allocated
}

/** A plain path where that says all; else `json:{…}` with what is needed to open the same again. */
function filename(record: NodeRecord, records: Records): string {
  const { spec, child } = record
  if (child === undefined) {
    return typeof spec.filename === 'string' ? spec.filename : `json:${spaced(pick(spec))}`
  }
  const below = records.find(child.node.name)
  if (below === undefined) return ''
  const options = pick(spec)
  const plain = spec.driver === 'mirror_top' || (spec.driver === 'raw' && Object.keys(options).length === 1)
  if (plain) return filename(below, records)
  return `json:${spaced({ ...options, [child.role]: definition(below, records) })}`
}

function definition(record: NodeRecord, records: Records): Record<string, unknown> {
  const below = record.child === undefined ? undefined : records.find(record.child.node.name)
  if (below === undefined || record.child === undefined) return pick(record.spec)
  return { ...pick(record.spec), [record.child.role]: definition(below, records) }
}

/** The driver and its own options, without the child; lists flattened to `name.0.member`. */
function pick(spec: NodeSpec): Record<string, unknown> {
  const picked: Record<string, unknown> = { driver: spec.driver }
  for (const [name, value] of Object.entries(spec)) {
    if (common.has(name) || name === 'file' || name === 'image' || value === undefined) continue
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
