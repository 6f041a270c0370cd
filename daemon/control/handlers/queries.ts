// SPDX-License-Identifier: Apache-2.0
// query-named-block-nodes, query-blockstats, query-block: answered at once from what the workers last reported.
// x-node-map asks the node's storage, and waits for it.

import type { Returns } from '../../../protocol/schema/index.js'
import type { OldestRequest } from '../../common/job-messages.js'
import { CommandError } from '../../errors.js'
import type { NodeReport } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { Jobs } from '../jobs/jobs.js'
import { oldestRequestInfo } from '../jobs/show.js'
import { backingDepth, backingOf, imageChain, imageInfo } from './image-info.js'

type NodeInfo = Returns<'query-named-block-nodes'>[number]
type NodeCounters = Returns<'query-blockstats'>[number]
/** Extents in one answer: by default, and however many are asked for. */
const MAP_DEFAULT = 4096
const MAP_MOST = 65536

type OldestOf = (node: string) => OldestRequest | undefined

export function queryHandlers(directory: Directory, jobs: Jobs) {
  const shown = () => {
    const nodes = [...directory.all()].filter((node) => node.state !== 'opening')
    return nodes
      .flatMap((node) => {
        const report = directory.report(node)
        return report === undefined ? [] : [{ node, report }]
      })
      .sort((a, b) => a.node.order - b.node.order)
  }
  const oldest: OldestOf = (name) =>
    jobs.list().find((job) => job.progress.oldest?.node === name)?.progress.oldest
  return {
    'query-block': () => [],
    'query-named-block-nodes': ({ flat }) =>
      shown()
        .reverse()
        .map(({ node, report }) => nodeInfo(directory, node, report, flat === true)),
    'x-node-map': async ({ node: name, offset, length, limit }) => {
      const node = directory.find(name)
      if (node?.worker === undefined) throw new CommandError(`Cannot find device='' nor node-name='${name}'`)
      const size = directory.report(node)?.size ?? 0
      const from = offset ?? 0
      const extents = await node.worker.request('node-map', {
        node: name,
        offset: inside(from, size, 'offset'),
        length: inside(length ?? size - from, size - from, 'length'),
        limit: Math.min(limit ?? MAP_DEFAULT, MAP_MOST),
      })
      return [...extents]
    },
    'query-blockstats': ({ 'query-nodes': nodes }) =>
      nodes === true ? shown().map(({ node, report }) => counters(directory, node, report, oldest)) : [],
  } satisfies Handlers
}

/** @throws CommandError unless 0 <= value <= most */
function inside(value: number, most: number, name: string): number {
  if (value < 0 || value > most)
    throw new CommandError(`Parameter '${name}' expects a value in range [0, ${most}]`)
  return value
}

function nodeInfo(directory: Directory, node: Node, report: NodeReport, flat: boolean): NodeInfo {
  const { name, driver, filename, dirtyBitmaps } = report
  const backing = backingOf(directory, node)
  return {
    iops_rd: 0,
    detect_zeroes: report.detectZeroes,
    active: true,
    image: flat ? imageInfo(report) : imageChain(directory, node, report),
    iops_wr: 0,
    ro: report.readOnly,
    'node-name': name,
    backing_file_depth: flat ? 0 : backingDepth(directory, node),
    drv: driver,
    iops: 0,
    bps_wr: 0,
    write_threshold: 0,
    ...(backing && { backing_file: backing.report.filename }),
    ...(dirtyBitmaps.length > 0 && { 'dirty-bitmaps': [...dirtyBitmaps] }),
    encrypted: false,
    bps: 0,
    bps_rd: 0,
    cache: { 'no-flush': report.cache.noFlush, direct: report.cache.direct, writeback: true },
    file: filename,
  }
}

/** `parent` is the child that holds the data: the reference daemon calls it so. */
function counters(directory: Directory, node: Node, report: NodeReport, oldestOf: OldestOf): NodeCounters {
  const child = directory.child(node, 'file') ?? directory.child(node, 'image')
  const backing = backingOf(directory, node)
  const below = child && directory.report(child)
  const oldest = oldestOf(node.name)
  const { stats, driver } = report
  return {
    ...(child && below && { parent: counters(directory, child, below, oldestOf) }),
    ...(backing && { backing: counters(directory, backing.node, backing.report, oldestOf) }),
    stats: deviceStats(stats),
    'node-name': node.name,
    ...((driver === 'file' || driver === 'host_device') && {
      'driver-specific': {
        driver,
        'discard-nb-ok': stats.discards,
        'discard-nb-failed': 0,
        'discard-bytes-ok': stats.discardBytes,
      },
    }),
    ...(oldest && { 'x-oldest-request': oldestRequestInfo(oldest) }),
  }
}

/** Of the nodes' own counting; times and merges are not taken. */
function deviceStats(stats: NodeReport['stats']): NodeCounters['stats'] {
  return {
    rd_bytes: stats.readBytes,
    wr_bytes: stats.writeBytes + stats.zeroBytes,
    rd_operations: stats.reads,
    wr_operations: stats.writes + stats.zeroes,
    flush_operations: stats.flushes,
    unmap_operations: stats.discards,
    unmap_bytes: stats.discardBytes,
    wr_highest_offset: stats.writeHighest,
    failed_rd_operations: stats.failedReads,
    failed_wr_operations: stats.failedWrites,
    failed_flush_operations: stats.failedFlushes,
    ...UNCOUNTED,
  }
}

const UNCOUNTED = {
  zone_append_bytes: 0,
  zone_append_operations: 0,
  rd_total_time_ns: 0,
  wr_total_time_ns: 0,
  zone_append_total_time_ns: 0,
  flush_total_time_ns: 0,
  unmap_total_time_ns: 0,
  rd_merged: 0,
  wr_merged: 0,
  zone_append_merged: 0,
  unmap_merged: 0,
  failed_zone_append_operations: 0,
  failed_unmap_operations: 0,
  invalid_rd_operations: 0,
  invalid_wr_operations: 0,
  invalid_zone_append_operations: 0,
  invalid_flush_operations: 0,
  invalid_unmap_operations: 0,
  account_invalid: false,
  account_failed: false,
  timed_stats: [],
}
