// SPDX-License-Identifier: Apache-2.0
// The drivers by name: which children a node has, which options a reopen may not change, and how it is opened.
// Used by the graph. A new driver is one file under drivers/ and one line here.

import type { FileId, IoEngine } from '../../../native/types.js'
import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../messages.js'
import type { NodeBitmaps } from './bitmaps/node-bitmaps.js'
import type { DirtyBitmap } from './dirty-bitmap.js'
import type { BlockDriver } from './driver.js'
import type { DriverBuffers } from './driver-buffers.js'
import { CompressDriver } from './drivers/compress.js'
import { openCopyBeforeWrite } from './drivers/copy-before-write.js'
import { openGuessedRaw } from './drivers/guessed-raw.js'
import { InjectDriver } from './drivers/inject.js'
import { blkdebugRules, ownRules } from './drivers/inject-rules.js'
import { MemoryDriver, openMemory } from './drivers/memory.js'
import { openNull } from './drivers/null.js'
import { openFile } from './drivers/open-file.js'
import { openRaw } from './drivers/raw.js'
import { SnapshotAccess } from './drivers/snapshot-access.js'
import { ThrottleDriver } from './drivers/throttle.js'
import type { Guests } from './guests.js'
import type { HeldRequests } from './held.js'
import type { BlockNode } from './node.js'
import type { NodeOptions } from './options.js'
import type { Role } from './records.js'
import type { ThrottleGroups } from './throttle-group.js'

export interface OpenContext {
  readonly engine: IoEngine
  readonly throttleGroups: ThrottleGroups
  readonly held: HeldRequests
  /** Told of every file handle of the node. */
  opened(file: FileId): void
  /** The driver in use until now, when the node is being reopened. */
  readonly previous: BlockDriver | undefined
  /** Named bitmaps of the node. */
  readonly bitmaps: NodeBitmaps
  /** Shared by all formats of the graph. @throws CommandError when there is no memory for them */
  formatBuffers(): DriverBuffers
  /** The driver of the image that a node shows, below filters; undefined where there is no format. */
  format(node: BlockNode): BlockDriver | undefined
  /** What is dirty in a bitmap; not to be changed. @throws CommandError when there is no such bitmap, or it is in use */
  bitmap(node: string, name: string): DirtyBitmap
  /** Users of the worker's disks. */
  readonly guests: Guests
  /** What a driver coped with. */
  log(level: 'info' | 'warn', text: string): void
  /** The image contradicts its format. */
  corrupted(text: string, at: { offset: number; size: number; fatal: boolean }): void
}

/** Children of a node, open, by the option that names or defines them. */
export type ChildNodes = Readonly<Partial<Record<Role, BlockNode>>>

export interface DriverEntry {
  /** Children a node may have; the schema says which it must have. */
  readonly children: readonly Role[]
  /** Options that a reopen may not change. */
  readonly fixed: readonly string[]
  /** It reads from its files, when it is opened, what their users change. */
  readonly reads?: true
  /** Nothing stays open on failure. */
  open(spec: NodeSpec, options: NodeOptions, context: OpenContext, children: ChildNodes): Promise<BlockDriver>
}

/** A driver over one child. */
function filter(
  role: 'file' | 'image',
  open: (spec: NodeSpec, child: BlockNode, context: OpenContext) => BlockDriver | Promise<BlockDriver>,
): DriverEntry {
  return {
    children: [role],
    fixed: [],
    open: async (spec, _options, context, children) => {
      const child = children[role]
      if (child === undefined) throw new CommandError(`Parameter '${role}' is missing`)
      return open(spec, child, context)
    },
  }
}

const file: DriverEntry = {
  children: [],
  fixed: ['filename', 'locking'],
  open: (spec, options, context) => openFile(spec, options, context.engine, context.opened),
}

const nothing: DriverEntry = {
  children: [],
  fixed: ['size'],
  open: async (spec, _options, context) => openNull(spec, context.engine),
}

const drivers: Readonly<Record<string, DriverEntry>> = {
  file,
  host_device: file,
  nbd: {
    children: [],
    fixed: ['export', 'reconnect-delay', 'open-timeout', 'tls-creds', 'tls-hostname', 'x-dirty-bitmap'],
    // Loaded with the first of a worker, as qcow2 below.
    open: async (spec, options, context) =>
      (await import('./drivers/nbd/open.js')).openNbd(spec, options, context),
  },
  'null-co': nothing,
  'null-aio': nothing,
  raw: filter('file', (spec, child, context) =>
    spec['x-guessed'] === true
      ? openGuessedRaw(spec, child, (slot) => context.engine.slotBytes(slot))
      : openRaw(spec, child),
  ),
  qcow2: {
    children: ['file', 'data-file', 'backing'],
    fixed: ['x-snapshot', 'x-snapshot-by'],
    reads: true,
    // Loaded with the first image of a worker: it is more code than all the rest, and raw disks start sooner without it.
    open: async (...args) => (await import('./drivers/qcow2/open.js')).openQcow2(...args),
  },
  compress: filter('file', (_spec, child) => new CompressDriver(child)),
  'copy-before-write': {
    children: ['file', 'target'],
    fixed: ['min-cluster-size'],
    open: async (spec, _options, context, children) => openCopyBeforeWrite(spec, context, children),
  },
  'snapshot-access': filter('file', (_spec, child) => new SnapshotAccess(child)),
  throttle: filter('file', (spec, child, context) => {
    const group = context.throttleGroups.get(spec['throttle-group'] as string)
    return new ThrottleDriver(child, group, spec['node-name'], context.held)
  }),
  'x-memory': {
    children: [],
    fixed: ['size'],
    open: async (spec, _options, context) => {
      const previous = context.previous
      return openMemory(spec, context.engine, previous instanceof MemoryDriver ? previous : undefined)
    },
  },
  'x-inject': filter('file', (spec, child, context) =>
    new InjectDriver(child, {
      type: 'x-inject',
      name: spec['node-name'],
      rules: ownRules(spec),
      align: undefined,
      held: context.held,
    }).opened(),
  ),
  blkdebug: filter('image', (spec, child, context) => {
    const align = (spec.align as number | undefined) || undefined
    if (align !== undefined && (align % 512 !== 0 || !Number.isInteger(Math.log2(align)))) {
      throw new CommandError(`Cannot meet constraints with align ${align}`)
    }
    return new InjectDriver(child, {
      type: 'blkdebug',
      name: spec['node-name'],
      rules: blkdebugRules(spec),
      align,
      held: context.held,
    }).opened()
  }),
}

/** @throws CommandError for a driver that does not exist */
export function driverEntry(name: string): DriverEntry {
  const entry = Object.hasOwn(drivers, name) ? drivers[name] : undefined
  if (entry === undefined) throw new CommandError(`Unknown driver '${name}'`)
  return entry
}
