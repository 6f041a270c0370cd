// SPDX-License-Identifier: Apache-2.0
// copy-before-write: a filter that keeps its node as it was when the filter was opened. What a change through it is about to
// replace is copied to a target first. The snapshot is read through a snapshot-access node above.

import { ENOTSUP } from '../../../common/errno.js'
import { CommandError, IoError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import { BeforeWrite, type OnCbwError } from '../before-write.js'
import { DirtyBitmap } from '../dirty-bitmap.js'
import {
  PERMISSIONS,
  type Permission,
  type Permissions,
  type Slice,
  type WriteHow,
  type ZeroHow,
} from '../driver.js'
import { chunkFor } from '../granularity.js'
import { type BlockNode, SECTOR } from '../node.js'
import type { ChildNodes, OpenContext } from '../open.js'
import { sizeOption } from '../options.js'
import { Snapshot } from '../snapshot.js'
import { Filter } from './filter.js'

/** A snapshot outlives a reopen: the new driver shares it with the old one. */
interface Kept {
  readonly snapshot: Snapshot
  users: number
}

/** @throws CommandError when the target is too small, or there is no memory for the snapshot */
export function openCopyBeforeWrite(
  spec: NodeSpec,
  context: OpenContext,
  { file: source, target }: ChildNodes,
): CopyBeforeWrite {
  if (source === undefined) throw new CommandError("Parameter 'file' is missing")
  if (target === undefined) throw new CommandError("Parameter 'target' is missing")
  const policy = {
    onError: (spec['on-cbw-error'] as OnCbwError | undefined) ?? 'break-guest-write',
    timeoutMs: sizeOption(spec, 'cbw-timeout', 0) * 1000,
  }
  const least = sizeOption(spec, 'min-cluster-size', 0)
  if (least > 0 && !Number.isInteger(Math.log2(least)))
    throw new CommandError('min-cluster-size needs to be a power of 2')
  const { previous } = context
  const kept =
    previous instanceof CopyBeforeWrite
      ? previous.kept
      : { snapshot: take(spec, context, source, target), users: 0 }
  const lost = (error: unknown) => context.log('warn', `snapshot lost: ${(error as Error).message}`)
  return new CopyBeforeWrite(source, kept, new BeforeWrite(kept.snapshot, policy, lost))
}

function take(spec: NodeSpec, context: OpenContext, source: BlockNode, target: BlockNode): Snapshot {
  const length = Math.ceil(source.length() / SECTOR) * SECTOR
  if (Math.ceil(target.length() / SECTOR) * SECTOR < length)
    throw new CommandError(`Target '${target.name}' is smaller than '${source.name}'`)
  const least = sizeOption(spec, 'min-cluster-size', 0)
  const todo = new DirtyBitmap(length, chunkFor(length, target.driver.limits.writeAlign ?? 1, least))
  const wanted = spec.bitmap as { readonly node: string; readonly name: string } | undefined
  if (wanted === undefined) todo.set(0, length)
  else todo.merge(context.bitmap(wanted.node, wanted.name))
  const access = wanted === undefined ? undefined : todo.copy()
  const covering = context.format(target)?.backing !== undefined
  const how = { unmap: true, vouched: false, covering }
  return new Snapshot(context.engine, { source, target, todo, access, how })
}

export class CopyBeforeWrite extends Filter {
  readonly type = 'copy-before-write'
  readonly kept: Kept
  readonly #guard: BeforeWrite

  constructor(child: BlockNode, kept: Kept, guard: BeforeWrite) {
    super(child)
    this.kept = kept
    this.#guard = guard
    kept.users++
  }

  get snapshot(): Snapshot {
    return this.kept.snapshot
  }

  override async write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    await this.#guard.before(offset, from.length)
    return this.child.write(offset, from, how)
  }

  override async zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    await this.#guard.before(offset, length)
    return this.child.zero(offset, length, how)
  }

  override async discard(offset: number, length: number): Promise<void> {
    if (this.child.options.discard !== 'ignore') await this.#guard.before(offset, length)
    return this.child.discard(offset, length)
  }

  override async resize(length: number): Promise<void> {
    throw new IoError(ENOTSUP, 'resize', this.child.name, 0, length)
  }

  /** Its nodes stay: see Surgery. */
  override replaceChild(): void {}

  /** Nobody may write past the filter. The target may lie above the source, which is written below it. */
  childPermissions(role: string, own: Permissions): Permissions {
    if (role === 'target') return { use: ['consistent read', 'write'], share: without('resize') }
    const use = PERMISSIONS.filter((one) => one === 'consistent read' || own.use.includes(one))
    return { use, share: own.share.filter((one) => one !== 'write' && one !== 'resize') }
  }

  override async close(): Promise<void> {
    await this.#guard.end()
    this.kept.users--
    if (this.kept.users === 0) this.kept.snapshot.close()
  }
}

function without(permission: Permission): readonly Permission[] {
  return PERMISSIONS.filter((one) => one !== permission)
}
