// SPDX-License-Identifier: Apache-2.0
// blockdev-mirror and drive-mirror: checks in QEMU's order, then one start.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { MirrorSpec } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import type { CopyStart, CopyStarter } from './copy-starter.js'
import { checkGranularity, checkValues, findNode, findSource, type MirrorArguments } from './mirror-checks.js'
import { busyText, userAbove } from './nodes.js'
import { checkFormat } from './target-file.js'

export function mirrorHandlers(starter: CopyStarter) {
  return {
    'blockdev-mirror': (args) => toNode(starter, args),
    'drive-mirror': (args) => toFile(starter, args),
  } satisfies Handlers
}

async function toNode(starter: CopyStarter, args: Arguments<'blockdev-mirror'>): Promise<void> {
  const { directory } = starter.graphs
  const source = findSource(directory, args.device)
  const target = findNode(directory, args.target)
  checkGranularity(args.granularity)
  if (userAbove(directory, target) !== undefined) throw new CommandError(busyText(directory, target))
  checkValues(directory, args, source)
  if (target === source) throw new CommandError("Can't mirror node into itself")
  const filterName = args['filter-node-name']
  if (filterName !== undefined) directory.checkNewName(filterName)
  const filter = { driver: 'mirror_top', name: filterName } as const
  const budget = args['x-budget']
  const claim = starter.claim({ id: args['job-id'] ?? '', source, filter, speed: args.speed, budget }, () =>
    starter.checkTarget(source, target),
  )
  const how = start(args, source, claim.filter, { unmap: true, replaces: args.replaces })
  await starter.run(await starter.prepareNode(claim, target, how))
}

async function toFile(starter: CopyStarter, args: Arguments<'drive-mirror'>): Promise<void> {
  const { directory } = starter.graphs
  const source = findSource(directory, args.device)
  if (args.replaces !== undefined && args['node-name'] === undefined)
    throw new CommandError('a node-name must be provided when replacing a named node of the graph')
  checkFormat(args.format, args.mode === 'existing')
  const nodeName = args['node-name']
  if (nodeName !== undefined) directory.checkNewName(nodeName)
  checkGranularity(args.granularity)
  checkValues(directory, args, source)
  // A node serves as the drive it is here: the job is named after it when nobody names it.
  const id = args['job-id'] ?? source.name
  const filter = { driver: 'mirror_top', name: undefined } as const
  const claim = starter.claim({ id, source, filter, speed: args.speed, budget: args['x-budget'] })
  const job = args['x-auto-complete'] === true ? 'one-shot' : 'mirror'
  const fresh = args.mode !== 'existing'
  const how = start(args, source, claim.filter, {
    unmap: args.unmap ?? true,
    replaces: args.replaces,
    underlay: fresh && args.sync === 'none',
    partial: fresh && args.bitmap !== undefined,
  })
  await starter.run(await starter.prepareFile(claim, args, job, how))
}

function start(
  args: MirrorArguments,
  source: Node,
  filter: Node,
  how: Pick<MirrorSpec, 'unmap' | 'replaces' | 'underlay' | 'partial'>,
): CopyStart {
  const common = mirrorSpec(args, source, filter)
  return {
    plan: {
      type: 'mirror',
      speed: common.speed,
      copyMode: common.copyMode,
      autoFinalize: args['auto-finalize'] ?? true,
      autoDismiss: args['auto-dismiss'] ?? true,
    },
    spec: (target, ownsTarget) => ({ ...common, ...how, target: target.name, ownsTarget }),
  }
}

function mirrorSpec(
  args: MirrorArguments,
  source: Node,
  filter: Node,
): Omit<MirrorSpec, 'target' | 'unmap' | 'ownsTarget' | 'replaces'> {
  return {
    kind: 'mirror',
    source: source.name,
    // Others were refused; a source without backing file is copied whole either way.
    sync: args.sync === 'incremental' ? 'bitmap' : args.sync,
    ...(args.bitmap !== undefined && {
      bitmap: { name: args.bitmap, mode: args['bitmap-mode'] ?? 'on-success' },
    }),
    filter: filter.name,
    granularity: args.granularity ?? 0,
    bufSize: args['buf-size'] ?? 0,
    speed: args.speed ?? 0,
    onSourceError: args['on-source-error'] ?? 'report',
    onTargetError: args['on-target-error'] ?? 'report',
    copyMode: args['copy-mode'] ?? 'background',
    onDiverge: args['x-on-diverge'] ?? 'report',
    yielding: args['x-yield'] ?? true,
    sparse: args['x-sparse'] ?? 0,
    targetIsZero: args['target-is-zero'] ?? false,
    autoComplete: args['x-auto-complete'] ?? false,
  }
}
