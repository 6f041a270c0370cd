// SPDX-License-Identifier: Apache-2.0
// blockdev-snapshot, blockdev-snapshot-sync, change-backing-file, x-image-empty: changes of backing chains that are no jobs.
// Checks in QEMU's order with its texts, then one request to the worker.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { Qcow2CreateSpec } from '../../iothread/messages.js'
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
    'blockdev-snapshot': async ({ node: name, overlay: overlayName }) => {
      const node = findNode(directory, name)
      const overlay = findNode(directory, overlayName)
      checkBelow(directory, node)
      checkOverlay(overlay)
      await append(graphs, node, overlay)
    },
    'blockdev-snapshot-sync': (args) => snapshotSync(graphs, args),
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

async function append(graphs: Graphs, node: Node, overlay: Node): Promise<void> {
  const worker = await graphs.join([node, overlay])
  try {
    // While it moved, others may have come.
    checkBelow(graphs.directory, node)
    checkOverlay(overlay)
    await graphs.change([node, overlay], async () => {
      const filter = graphs.directory.generateName()
      await worker.request('node-append', { node: node.name, overlay: overlay.name, filter })
    })
  } finally {
    worker.release()
  }
}

async function snapshotSync(graphs: Graphs, args: SnapshotSync): Promise<void> {
  const { directory } = graphs
  const { device, 'node-name': name, 'snapshot-file': filename, format = 'qcow2' } = args
  const node = directory.find(name ?? device ?? '')
  if (node === undefined)
    throw new CommandError(`Cannot find device='${device ?? ''}' nor node-name='${name ?? ''}'`)
  checkBelow(directory, node)
  if (format !== 'qcow2') throw new CommandError(`Invalid snapshot format '${format}'`)
  const snapshotName = args['snapshot-node-name']
  if (snapshotName !== undefined) directory.checkNewName(snapshotName)
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
        ...(snapshotName !== undefined && { 'node-name': snapshotName }),
        cache: { direct: below?.cache.direct ?? false, 'no-flush': below?.cache.noFlush ?? false },
      },
      { kind: 'user' },
      worker,
    )
    await append(graphs, node, overlay).catch(async (error: unknown) => {
      await graphs.close(overlay).catch(() => undefined)
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
      ...{ size: directory.report(node)?.size ?? 0, version: 3, clusterSize: 65536, refcountBits: 16 },
      ...{ compression: 'zlib', preallocation: 'off', extendedL2: false, lazyRefcounts: false },
      ...{ dataFileName: undefined, dataFileRaw: false },
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
