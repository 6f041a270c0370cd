// SPDX-License-Identifier: Apache-2.0
// Write access: an image that is only read becomes writable for a job, with the nodes inside it that hold its bytes. Used
// by the graph.

import type { NodeSpec } from '../messages.js'
import type { BlockNode } from './node.js'
import { nodeOptions } from './options.js'
import type { NodeRecord, Records } from './records.js'
import type { ReopenStep, Rest } from './reopen.js'
import { restingSoon } from './rest.js'

export interface WriteAccess {
  /**
   * It is only read again, as before, unless others write it by then, or a request of others does not end. A second call does
   * nothing, nor does one after keep().
   */
  restore(): Promise<void>
  /** It stays writable. @returns names of the nodes that were not */
  keep(): string[]
}

/** Opens nodes anew, all or none. */
type Reopen = (steps: readonly ReopenStep[], rest: Rest) => Promise<void>

export interface AccessEnv {
  readonly records: Records
  readonly reopen: Reopen
  /** Whether somebody may change the node. */
  readonly isWritten: (node: BlockNode) => boolean
  /** Told of nodes that stay writable, because others write them. */
  readonly kept: (names: readonly string[]) => void
  /** Told of a node that stays writable, with what holds its bytes, because it did not come to rest in time. */
  readonly stuck: (name: string) => void
  /** Time in which a node is to come to rest to be only read again. */
  readonly mostMs?: number
}

/**
 * @param signal  gives up waiting until it has no request under way
 * @throws CommandError, IoError when a node cannot be opened for writing, Cancelled; nothing is changed then
 */
export async function makeWritable(
  record: NodeRecord,
  { records, reopen, isWritten, kept, stuck, mostMs }: AccessEnv,
  signal: AbortSignal,
): Promise<WriteAccess> {
  const changed: NodeRecord[] = []
  const keep = () => {
    const names = changed.splice(0).map(({ node }) => node.name)
    for (const name of names) keepWritable(record, name, records)
    return names
  }
  const readOnly = async (last: NodeRecord) => {
    let late = false
    const rest = async (node: BlockNode) => {
      late = true
      const drained = await restingSoon(node.name, (signal) => node.drain(signal), mostMs)
      late = false
      return drained
    }
    try {
      if (!isWritten(last.node)) return await reopen([step(last, true)], rest)
    } catch (error) {
      if (late) {
        stuck(last.node.name)
        return kept(keep())
      }
      // Somebody began to just now.
      if (!isWritten(last.node)) throw error
    }
    keepWritable(record, last.node.name, records)
    kept([last.node.name])
  }
  const restore = async () => {
    // Who holds something back gives it to its children while they still take it.
    for (let last = changed.at(-1); last !== undefined; last = changed.at(-1)) {
      await readOnly(last)
      changed.pop()
    }
  }
  try {
    for (const each of storageFirst(record, records)) {
      if (!each.node.readOnly) continue
      await reopen([step(each, false)], (node) => node.drain(signal))
      changed.push(each)
    }
  } catch (error) {
    await restore()
    throw error
  }
  return { restore, keep }
}

/** The node and what was defined inside it to hold its bytes, children first. */
function storageFirst(record: NodeRecord, records: Records): NodeRecord[] {
  const below = record.children.filter(({ role, inline }) => inline && role !== 'backing')
  return [...below.flatMap(({ node }) => storageFirst(records.get(node.name), records)), record]
}

function step(record: NodeRecord, readOnly: boolean): ReopenStep {
  const { node, spec } = record
  const { forceShare, direct, noFlush, discard, detectZeroes } = node.options
  const full: NodeSpec = {
    ...spec,
    ...{ 'read-only': readOnly, 'auto-read-only': false, 'force-share': forceShare, discard },
    ...{ 'detect-zeroes': detectZeroes, cache: { direct, 'no-flush': noFlush } },
  }
  return { record, own: spec, full, options: nodeOptions(full) }
}

/** Says so in the specification, by which it may be opened elsewhere. */
function keepWritable(record: NodeRecord, name: string, records: Records): void {
  if (record.node.name === name) record.spec = { ...record.spec, 'read-only': false }
  for (const { role, node, inline } of record.children) {
    if (!inline || role === 'backing') continue
    const below = records.get(node.name)
    keepWritable(below, name, records)
    record.spec = { ...record.spec, [role]: below.spec }
  }
}
