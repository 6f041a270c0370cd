// SPDX-License-Identifier: Apache-2.0
// blockdev-backup and drive-backup: checks in QEMU's order, then one start.

import type { Arguments } from '../../../protocol/schema/index.js'
import type { BackupSpec } from '../../iothread/messages-backup.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import { type BackupArguments, checkBitmap, checkPerf, checkSource, checkTarget } from './backup-checks.js'
import type { CopyClaim, CopyStart, CopyStarter, PreparedCopy } from './copy-starter.js'
import { findNode } from './mirror-checks.js'
import { checkFormat } from './target-file.js'

/** Pieces of 1 MiB in flight at most, however many are asked for. */
const MOST_WORKERS = 16

export function backupHandlers(starter: CopyStarter) {
  return {
    'blockdev-backup': async (args) => starter.run(await claimNode(starter, args).prepare()),
    'drive-backup': async (args) => starter.run(await claimFile(starter, args).prepare()),
  } satisfies Handlers
}

/** A backup whose arguments were checked, with what it takes before it waits for anything. One of the two is called, once. */
export interface ClaimedBackup {
  readonly source: Node
  /** Everything but the start. On failure nothing is claimed any more. */
  prepare(): Promise<PreparedCopy>
  release(): void
}

/** @param added  names of bitmaps that the source will have */
export function claimNode(
  starter: CopyStarter,
  args: Arguments<'blockdev-backup'>,
  added?: ReadonlySet<string>,
): ClaimedBackup {
  const { directory } = starter.graphs
  const source = findNode(directory, args.device)
  const target = findNode(directory, args.target)
  checkBitmap(directory, source, args, added)
  checkTarget(directory, source, target, args)
  const claim = claimFor(starter, args, source, args['job-id'] ?? '', () =>
    starter.checkTarget(source, target),
  )
  return {
    source,
    prepare: () => starter.prepareNode(claim, target, start(args, source, claim.filter)),
    release: () => starter.release(claim),
  }
}

/** The same for a target that is a file. */
export function claimFile(
  starter: CopyStarter,
  args: Arguments<'drive-backup'>,
  added?: ReadonlySet<string>,
): ClaimedBackup {
  const { directory } = starter.graphs
  const source = findNode(directory, args.device)
  checkFormat(args.format, args.mode === 'existing')
  checkBitmap(directory, source, args, added)
  checkSource(directory, source)
  checkPerf(args)
  // A node serves as the drive it is here: the job is named after it when nobody names it.
  const claim = claimFor(starter, args, source, args['job-id'] ?? source.name)
  return {
    source,
    prepare: () => starter.prepareFile(claim, args, 'backup', start(args, source, claim.filter)),
    release: () => starter.release(claim),
  }
}

function claimFor(
  starter: CopyStarter,
  args: BackupArguments,
  source: Node,
  id: string,
  check?: () => void,
): CopyClaim {
  const name = args['filter-node-name']
  if (name !== undefined) starter.graphs.directory.checkNewName(name)
  const filter = { driver: 'copy-before-write', name } as const
  return starter.claim({ id, source, filter, speed: args.speed, budget: args['x-budget'] }, check)
}

function start(args: BackupArguments, source: Node, filter: Node): CopyStart {
  const common = backupSpec(args, source, filter)
  return {
    plan: {
      type: 'backup',
      speed: common.speed,
      copyMode: 'background',
      autoFinalize: args['auto-finalize'] ?? true,
      autoDismiss: args['auto-dismiss'] ?? true,
    },
    spec: (target, ownsTarget) => ({ ...common, target: target.name, ownsTarget }),
  }
}

function backupSpec(
  args: BackupArguments,
  source: Node,
  filter: Node,
): Omit<BackupSpec, 'target' | 'ownsTarget'> {
  const perf = args['x-perf']
  return {
    kind: 'backup',
    source: source.name,
    sync: args.sync === 'incremental' ? 'bitmap' : args.sync,
    bitmap:
      args.bitmap === undefined
        ? undefined
        : { name: args.bitmap, mode: args['bitmap-mode'] ?? 'on-success' },
    filter: filter.name,
    speed: args.speed ?? 0,
    compress: args.compress ?? false,
    onSourceError: args['on-source-error'] ?? 'report',
    onTargetError: args['on-target-error'] ?? 'report',
    onCbwError: args['on-cbw-error'] ?? 'break-guest-write',
    cbwTimeoutMs: (args['x-cbw-timeout'] ?? 0) * 1000,
    yielding: args['x-yield'] ?? true,
    discardSource: args['discard-source'] ?? false,
    workers: Math.min(perf?.['max-workers'] ?? MOST_WORKERS, MOST_WORKERS),
    maxChunk: perf?.['max-chunk'] ?? 0,
    minClusterSize: perf?.['min-cluster-size'] ?? 0,
  }
}
