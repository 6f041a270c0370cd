// SPDX-License-Identifier: Apache-2.0
// blockdev-backup and drive-backup: checks in QEMU's order, then one start.

import type { Arguments } from '../../../protocol/schema/index.js'
import type { BackupSpec } from '../../iothread/messages-backup.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import { type BackupArguments, checkBitmap, checkPerf, checkSource, checkTarget } from './backup-checks.js'
import type { CopyClaim, CopyStart, CopyStarter } from './copy-starter.js'
import { findNode } from './mirror-checks.js'
import { checkFormat } from './target-file.js'

/** Pieces of 1 MiB in flight at most, however many are asked for. */
const MOST_WORKERS = 16

export function backupHandlers(starter: CopyStarter) {
  return {
    'blockdev-backup': (args) => toNode(starter, args),
    'drive-backup': (args) => toFile(starter, args),
  } satisfies Handlers
}

async function toNode(starter: CopyStarter, args: Arguments<'blockdev-backup'>): Promise<void> {
  const { directory } = starter.graphs
  const source = findNode(directory, args.device)
  const target = findNode(directory, args.target)
  checkBitmap(source, args)
  checkTarget(directory, source, target, args)
  const claim = claimFor(starter, args, source, args['job-id'] ?? '', () =>
    starter.checkTarget(source, target),
  )
  await starter.toNode(claim, target, start(args, source, claim.filter))
}

async function toFile(starter: CopyStarter, args: Arguments<'drive-backup'>): Promise<void> {
  const { directory } = starter.graphs
  const source = findNode(directory, args.device)
  checkFormat(args.format, args.mode === 'existing')
  checkBitmap(source, args)
  checkSource(directory, source)
  checkPerf(args)
  // A node serves as the drive it is here: the job is named after it when nobody names it.
  const claim = claimFor(starter, args, source, args['job-id'] ?? source.name)
  await starter.toFile(claim, args, 'backup', start(args, source, claim.filter))
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
  return starter.claim({ id, source, filter, speed: args.speed }, check)
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
    sync: args.sync === 'none' ? 'none' : args.sync === 'top' ? 'top' : 'full',
    filter: filter.name,
    speed: args.speed ?? 0,
    compress: args.compress ?? false,
    onSourceError: args['on-source-error'] ?? 'report',
    onTargetError: args['on-target-error'] ?? 'report',
    onCbwError: args['on-cbw-error'] ?? 'break-guest-write',
    cbwTimeoutMs: (args['x-cbw-timeout'] ?? 0) * 1000,
    discardSource: args['discard-source'] ?? false,
    workers: Math.min(perf?.['max-workers'] ?? MOST_WORKERS, MOST_WORKERS),
    maxChunk: perf?.['max-chunk'] ?? 0,
    minClusterSize: perf?.['min-cluster-size'] ?? 0,
  }
}
