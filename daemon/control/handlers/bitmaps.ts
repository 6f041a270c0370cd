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

/** A command about one bitmap, also as an action of a transaction. */
export type BitmapCommand =
  | { readonly type: 'block-dirty-bitmap-add'; readonly data: Arguments<'block-dirty-bitmap-add'> }
  | { readonly type: 'block-dirty-bitmap-merge'; readonly data: MergeArguments }
  | {
      readonly type: `block-dirty-bitmap-${'remove' | 'clear' | 'enable' | 'disable'}`
      readonly data: Arguments<'block-dirty-bitmap-clear'>
    }

export function bitmapHandlers(graphs: Graphs) {
  const { directory } = graphs
  /** The node stays in its worker meanwhile. */
  const change = (node: Node, command: BitmapCommand) =>
    graphs.change([node], async () => {
      const { worker } = node
      if (worker === undefined) return
      await worker.request('bitmaps-change', { actions: [await bitmapAction(directory, command, worker)] })
    })
  const simple =
    (type: `block-dirty-bitmap-${'remove' | 'clear' | 'enable' | 'disable'}`) =>
    (data: Arguments<'block-dirty-bitmap-clear'>) =>
      change(bitmapNode(directory, data.node), { type, data })
  return {
    'block-dirty-bitmap-add': (data) =>
      change(addedNode(directory, data), { type: 'block-dirty-bitmap-add', data }),
    'block-dirty-bitmap-remove': simple('block-dirty-bitmap-remove'),
    'block-dirty-bitmap-clear': simple('block-dirty-bitmap-clear'),
    'block-dirty-bitmap-enable': simple('block-dirty-bitmap-enable'),
    'block-dirty-bitmap-disable': simple('block-dirty-bitmap-disable'),
    'block-dirty-bitmap-merge': (data) =>
      change(bitmapNode(directory, data.node), { type: 'block-dirty-bitmap-merge', data }),
    'x-debug-block-dirty-bitmap-sha256': async ({ node: of, name }) => {
      const node = bitmapNode(directory, of)
      return { sha256: (await node.worker?.request('bitmap-sha256', { node: of, name })) ?? '' }
    },
  } satisfies Handlers
}

/** The node that is to have another bitmap. @throws CommandError */
export function addedNode(
  directory: Directory,
  { node: of, name }: Arguments<'block-dirty-bitmap-add'>,
): Node {
  if (name === '') throw new CommandError('Bitmap name cannot be empty')
  const node = directory.find(of)
  if (node === undefined) throw new CommandError(`Cannot find device='${of}' nor node-name='${of}'`)
  return node
}

/** What a command asks of the worker that has the node. */
export async function bitmapAction(
  directory: Directory,
  command: BitmapCommand,
  worker: DiskWorker,
): Promise<BitmapAction> {
  switch (command.type) {
    case 'block-dirty-bitmap-add': {
      const { node, name, granularity, persistent = false, disabled = false } = command.data
      return { kind: 'add', node, name, granularity, persistent, recording: !disabled }
    }
    case 'block-dirty-bitmap-merge': {
      const { node, target: name } = command.data
      return { kind: 'merge', node, name, sources: await mergeSources(directory, command.data, worker) }
    }
    case 'block-dirty-bitmap-remove':
      return { kind: 'remove', ...command.data }
    case 'block-dirty-bitmap-clear':
      return { kind: 'clear', ...command.data }
    case 'block-dirty-bitmap-enable':
      return { kind: 'enable', ...command.data }
    case 'block-dirty-bitmap-disable':
      return { kind: 'disable', ...command.data }
    default:
      return command satisfies never
  }
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
