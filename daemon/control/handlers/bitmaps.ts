// SPDX-License-Identifier: Apache-2.0
// The block-dirty-bitmap commands: found nodes in, one request to the worker that has the bitmap out. What may be done
// with a bitmap only its worker knows.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { BitmapAction, MergeSource } from '../../iothread/messages-bitmaps.js'
import type { Handlers } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { DiskWorker } from '../workers.js'

type MergeArguments = Arguments<'block-dirty-bitmap-merge'>

export function bitmapHandlers(graphs: Graphs) {
  const { directory } = graphs
  /** The node stays in its worker meanwhile. */
  const change = (node: Node, action: (worker: DiskWorker) => Promise<BitmapAction> | BitmapAction) =>
    graphs.change([node], async () => {
      const { worker } = node
      if (worker !== undefined) await worker.request('bitmaps-change', { actions: [await action(worker)] })
    })
  const simple =
    (kind: 'remove' | 'clear' | 'enable' | 'disable') =>
    ({ node, name }: Arguments<'block-dirty-bitmap-clear'>) =>
      change(bitmapNode(directory, node), () => ({ kind, node, name }))
  return {
    'block-dirty-bitmap-add': async (args) => {
      const { node: of, name, granularity, persistent = false, disabled = false } = args
      if (name === '') throw new CommandError('Bitmap name cannot be empty')
      const node = directory.find(of)
      if (node === undefined) throw new CommandError(`Cannot find device='${of}' nor node-name='${of}'`)
      await change(node, () => {
        return { kind: 'add', node: of, name, granularity, persistent, recording: !disabled }
      })
    },
    'block-dirty-bitmap-remove': simple('remove'),
    'block-dirty-bitmap-clear': simple('clear'),
    'block-dirty-bitmap-enable': simple('enable'),
    'block-dirty-bitmap-disable': simple('disable'),
    'block-dirty-bitmap-merge': (args) => {
      const { node, target: name } = args
      return change(bitmapNode(directory, node), async (worker) => {
        return { kind: 'merge', node, name, sources: await mergeSources(directory, args, worker) }
      })
    },
    'x-debug-block-dirty-bitmap-sha256': async ({ node: of, name }) => {
      const node = bitmapNode(directory, of)
      return { sha256: (await node.worker?.request('bitmap-sha256', { node: of, name })) ?? '' }
    },
  } satisfies Handlers
}

/** The node whose bitmap a command names. @throws CommandError */
export function bitmapNode(directory: Directory, name: string): Node {
  const node = directory.find(name)
  if (node === undefined) throw new CommandError(`Node '${name}' not found`)
  return node
}

/** As the target's worker takes them: what it does not have itself comes as content. */
export async function mergeSources(
  directory: Directory,
  { node, bitmaps }: Pick<MergeArguments, 'node' | 'bitmaps'>,
  worker: DiskWorker,
): Promise<MergeSource[]> {
  const sources: MergeSource[] = []
  for (const each of bitmaps) {
    const source = typeof each === 'string' ? { node, name: each } : each
    const from = bitmapNode(directory, source.node).worker
    if (from === undefined || from === worker) sources.push(source)
    else sources.push(await from.request('bitmap-content', source))
  }
  return sources
}
