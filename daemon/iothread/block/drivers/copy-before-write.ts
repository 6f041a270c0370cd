// SPDX-License-Identifier: Apache-2.0
// copy-before-write: a filter that keeps its node as it was when the filter was opened. What a change is about to replace is copied
// to a target first, whether it comes through the filter or not: a hook of the node below catches it, as in a backup. The snapshot
// is read through a snapshot-access node above.

import { ENOTSUP } from '../../../common/errno.js'
import { CommandError, IoError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import { BeforeWrite, type CbwPolicy, type OnCbwError } from '../before-write.js'
import { DirtyBitmap } from '../dirty-bitmap.js'
import { PERMISSIONS, type Permissions, without } from '../driver.js'
import { chunkFor } from '../granularity.js'
import type { BlockNode } from '../node.js'
import type { ChildNodes, OpenContext } from '../open.js'
import { sizeOption } from '../options.js'
import { restingSoon } from '../rest.js'
import { Snapshot } from '../snapshot.js'
import { Filter } from './filter.js'

/** A snapshot outlives a reopen: the new driver shares it with the old one. */
interface Kept {
  readonly snapshot: Snapshot
  readonly guard: BeforeWrite
  /** Says what is to be copied, at the moment that is kept. */
  readonly mark: () => void
  /** Tells the guard of changes of the source. */
  hook: Disposable | undefined
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
    previous instanceof CopyBeforeWrite ? previous.kept : keep(spec, context, source, target, policy)
  return new CopyBeforeWrite(source, kept, policy)
}

function keep(
  spec: NodeSpec,
  context: OpenContext,
  source: BlockNode,
  target: BlockNode,
  policy: CbwPolicy,
): Kept {
  const length = source.size()
  if (target.size() < length)
    throw new CommandError(`Target '${target.name}' is smaller than '${source.name}'`)
  const least = sizeOption(spec, 'min-cluster-size', 0)
  const todo = new DirtyBitmap(length, chunkFor(length, target.driver.limits.writeAlign ?? 1, least))
  const wanted = spec.bitmap as { readonly node: string; readonly name: string } | undefined
  if (wanted !== undefined) context.bitmap(wanted.node, wanted.name)
  const access = wanted === undefined ? undefined : todo.copy()
  const mark = () => {
    if (wanted === undefined) todo.set(0, length)
    else for (const each of [todo, access]) each?.merge(context.bitmap(wanted.node, wanted.name))
  }
  const covering = context.format(target)?.backing !== undefined
  const how = { unmap: true, vouched: false, covering }
  const snapshot = new Snapshot(context.engine, { source, target, todo, access, how })
  const lost = (error: unknown) => context.log('warn', `snapshot lost: ${(error as Error).message}`)
  const guard = new BeforeWrite(snapshot, policy, context.guests, lost)
  return { snapshot, guard, mark, hook: undefined, users: 0 }
}

export class CopyBeforeWrite extends Filter {
  readonly type = 'copy-before-write'
  readonly kept: Kept
  readonly #policy: CbwPolicy

  constructor(child: BlockNode, kept: Kept, policy: CbwPolicy) {
    super(child)
    this.kept = kept
    this.#policy = policy
    kept.users++
  }

  get snapshot(): Snapshot {
    return this.kept.snapshot
  }

  /** The moment that is kept is when this ends: whoever changes the source from now on, here or below, waits for its copy. */
  async begin(): Promise<void> {
    const { kept, child } = this
    using _quiet = await restingSoon(child.name, (signal) => child.drain(signal))
    if (child.size() !== kept.snapshot.todo.length)
      throw new CommandError(`Node '${child.name}' was resized by another program just now; try again`)
    kept.mark()
    kept.snapshot.begin()
    this.#listen()
  }

  /** To changes of what is below. */
  #listen(): void {
    const { guard } = this.kept
    this.kept.hook = this.child.addBeforeWrite((offset, length) => guard.before(offset, length))
  }

  async end(): Promise<void> {
    const { kept } = this
    await kept.guard.end()
    kept.hook?.[Symbol.dispose]()
    kept.hook = undefined
  }

  placed(): void {
    this.kept.guard.follow(this.#policy)
  }

  override async resize(length: number): Promise<void> {
    throw new IoError(ENOTSUP, 'resize', this.child.name, 0, length)
  }

  /** What is not copied yet is read from the other node from now on, and kept when that is changed. The target stays: see Surgery. */
  override replaceChild(role: string, node: BlockNode): void {
    if (role !== 'file') return
    const { hook, snapshot } = this.kept
    this.child = node
    snapshot.follow(node)
    if (hook === undefined) return
    hook[Symbol.dispose]()
    this.#listen()
  }

  /**
   * Who uses the filter has the source to himself for writing; as long as nobody does, others write it as they like. The target may
   * lie above the source, which is written below it.
   */
  childPermissions(role: string, own: Permissions): Permissions {
    if (role === 'target') return { use: ['consistent read', 'write'], share: without('resize') }
    const use = PERMISSIONS.filter((one) => one === 'consistent read' || own.use.includes(one))
    const used = own.use.length > 0
    return { use, share: own.share.filter((one) => one !== 'resize' && (one !== 'write' || !used)) }
  }

  override async close(): Promise<void> {
    this.kept.users--
    if (this.kept.users > 0) return
    await this.end()
    this.kept.snapshot.close()
  }
}
