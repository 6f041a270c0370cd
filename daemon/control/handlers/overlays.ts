// SPDX-License-Identifier: Apache-2.0
// blockdev-snapshot, blockdev-snapshot-sync, change-backing-file, x-image-empty: changes of backing chains that are no jobs.
// Checks in QEMU's order with its texts, then one request to the worker.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { Qcow2CreateSpec } from '../../iothread/messages.js'
import { usualImage } from '../../iothread/messages-create.js'
import type { Handlers } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { DiskWorker } from '../workers.js'
import { backingSpec, chainOf, imagesOf } from './chain-names.js'
import { findNode } from './mirror-checks.js'
import { busyText, userAbove } from './nodes.js'

type SnapshotSync = Arguments<'blockdev-snapshot-sync'>

export function overlayHandlers(graphs: Graphs) {
  const { directory } = graphs
  return {
    'blockdev-snapshot': async (args) => append(graphs, await claimOverlay(graphs, args).prepare()),
    'blockdev-snapshot-sync': async (args) => append(graphs, await claimNewOverlay(graphs, args).prepare()),
    'change-backing-file': async ({ device, 'image-node-name': name, 'backing-file': file }) => {
      const top = findNode(directory, device)
      if (top.parents.size > 0) throw new CommandError('Need a root block node')
      const image = directory.find(name)
      if (image === undefined) throw new CommandError(`Cannot find device='' nor node-name='${name}'`)
      const [, below] = imagesOf(directory, image)
      if (below === undefined)
        throw new CommandError('not allowing backing file change on an image without a backing file')
      if (!chainOf(directory, top).includes(image))
        throw new CommandError(`'${device}' and image file are not in the same chain`)
      checkBelow(directory, image)
      const backing = backingSpec(directory, below, file)
      await graphs.change([image], async () => {
        await image.worker?.request('node-rename-backing', { node: image.name, backing })
      })
    },
    'x-image-empty': async ({ node: name }) => {
      const node = findNode(directory, name)
      checkBelow(directory, node)
      await graphs.change([node], async () => {
        await node.worker?.request('node-empty', { node: node.name })
      })
    },
  } satisfies Handlers
}

function checkBelow(directory: Directory, node: Node): void {
  if (userAbove(directory, node) !== undefined) throw new CommandError(busyText(directory, node))
}

function checkOverlay(overlay: Node): void {
  if (overlay.use !== undefined || overlay.parents.size > 0 || overlay.exports.size > 0)
    throw new CommandError('The overlay is already in use')
  if (overlay.spec.driver !== 'qcow2') throw new CommandError('The overlay does not support backing images')
  if (overlay.children.has('backing')) throw new CommandError('The overlay already has a backing image')
}

/** An overlay whose arguments were checked. Nothing is taken yet. */
export interface ClaimedOverlay {
  readonly node: Node
  /** Undefined: it is going to be made. */
  readonly overlay: Node | undefined
  /** Brings both into one worker. On failure nothing is left of it but, perhaps, the file that was made. */
  prepare(): Promise<PreparedOverlay>
}

/** An overlay that only has to be put on its node. */
export interface PreparedOverlay {
  readonly node: Node
  readonly overlay: Node
  readonly worker: DiskWorker
  /** For who changes both now. @throws CommandError when somebody has come to use one meanwhile */
  check(): void
  /** It is there. */
  done(): void
  /** It is not going to be there. */
  undo(): Promise<void>
}

export function claimOverlay(
  graphs: Graphs,
  { node: name, overlay: overlayName }: Arguments<'blockdev-snapshot'>,
): ClaimedOverlay {
  const { directory } = graphs
  const node = findNode(directory, name)
  const overlay = findNode(directory, overlayName)
  checkBelow(directory, node)
  checkOverlay(overlay)
  return { node, overlay, prepare: () => join(graphs, node, overlay, async () => {}) }
}

/** @param discard  closes the overlay when nobody is going to have it */
async function join(
  graphs: Graphs,
  node: Node,
  overlay: Node,
  discard: () => Promise<void>,
): Promise<PreparedOverlay> {
  const worker = await graphs.join([node, overlay])
  const check = () => {
    checkBelow(graphs.directory, node)
    checkOverlay(overlay)
  }
  try {
    // While it moved, others may have come.
    check()
  } catch (error) {
    worker.release()
    throw error
  }
  const done = () => worker.release()
  const undo = async () => {
    await discard()
    done()
  }
  return { node, overlay, worker, check, done, undo }
}

async function append(graphs: Graphs, prepared: PreparedOverlay): Promise<void> {
  const { node, overlay, worker } = prepared
  try {
    await graphs.change([node, overlay], async () => {
      prepared.check()
      const filter = graphs.directory.generateName()
      await worker.request('node-append', { node: node.name, overlay: overlay.name, filter })
    })
  } catch (error) {
    await prepared.undo()
    throw error
  }
  prepared.done()
}

/** With an overlay that is made for it. */
export function claimNewOverlay(graphs: Graphs, args: SnapshotSync): ClaimedOverlay {
  const { directory } = graphs
  const { device, 'node-name': name, format = 'qcow2', 'snapshot-node-name': snapshotName } = args
  const node = directory.find(name ?? device ?? '')
  if (node === undefined)
    throw new CommandError(`Cannot find device='${device ?? ''}' nor node-name='${name ?? ''}'`)
  checkBelow(directory, node)
  if (format !== 'qcow2') throw new CommandError(`Invalid snapshot format '${format}'`)
  if (snapshotName !== undefined) directory.checkNewName(snapshotName)
  return { node, overlay: undefined, prepare: () => makeAndJoin(graphs, node, args) }
}

async function makeAndJoin(graphs: Graphs, node: Node, args: SnapshotSync): Promise<PreparedOverlay> {
  const { directory } = graphs
  const { 'snapshot-file': filename, 'snapshot-node-name': name } = args
  const backing = backingSpec(directory, node, undefined)
  graphs.checkUnchanging(node)
  const worker = node.worker
  if (worker === undefined) throw new CommandError(`Node '${node.name}' was lost`)
  worker.hold()
  try {
    if (args.mode !== 'existing') await makeOverlay(graphs, node, filename, backing, worker)
    const below = directory.report(node)
    const overlay = await graphs.open(
      {
        ...{ driver: 'qcow2', backing: null, file: { driver: 'file', filename } },
        ...(name !== undefined && { 'node-name': name }),
        cache: { direct: below?.cache.direct ?? false, 'no-flush': below?.cache.noFlush ?? false },
      },
      { kind: 'user' },
      worker,
    )
    const discard = () => graphs.close(overlay).catch(() => undefined)
    return await join(graphs, node, overlay, discard).catch(async (error: unknown) => {
      await discard()
      throw error
    })
  } finally {
    worker.release()
  }
}

async function makeOverlay(
  graphs: Graphs,
  node: Node,
  filename: string,
  backing: { readonly name: string; readonly format: string | undefined },
  worker: DiskWorker,
): Promise<void> {
  const { directory } = graphs
  const image: Qcow2CreateSpec = {
    ...{ kind: 'create', driver: 'qcow2', dataFile: undefined },
    file: { driver: 'file', 'node-name': directory.generateName(), filename },
    options: {
      ...usualImage(directory.report(node)?.size ?? 0),
      ...{ backingFile: backing.name, backingFormat: backing.format },
    },
  }
  await worker.request('target-create', {
    spec: { kind: 'create', driver: 'file', filename, size: 0, preallocation: 'off' },
    image,
    refuse: [...graphs.identities(directory.tree(node)), ...graphs.held()],
    source: node.name,
    job: 'mirror',
  })
}
