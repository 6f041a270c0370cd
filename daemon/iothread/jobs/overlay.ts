// SPDX-License-Identifier: Apache-2.0
// Changes of a backing chain that copy nothing: an overlay is put on a node that is in use, an image names another backing
// file. Used by the worker's root object and its transactions.

import { Cancelled, CommandError } from '../../errors.js'
import type { BackingFile } from '../block/driver.js'
import type { Graph } from '../block/graph.js'
import type { BlockNode } from '../block/node.js'
import { restingSoon } from '../block/rest.js'
import type { Appended } from '../block/surgery.js'
import { Holdings } from './holdings.js'

const USER = 'an unnamed block device'

/** An overlay that is to be put on a node which nobody uses now, and which was flushed. Its end lets everybody go on. */
export interface OverlayPlace extends Disposable {
  /** Everybody who uses the node uses its overlay from now on. */
  put(): Promise<Appended>
}

/** @throws CommandError when the overlay is not as it has to be */
export async function checkOverlay(graph: Graph, node: BlockNode, overlay: BlockNode): Promise<void> {
  await graph.freshen(overlay.name)
  if (overlay.length() < node.length())
    throw new CommandError(`The overlay '${overlay.name}' is shorter than '${node.name}'`)
}

/** In a drained section. @throws Cancelled with the signal; a flush that is stuck is not waited for then */
async function flushUnless(node: BlockNode, signal: AbortSignal): Promise<void> {
  const aborted = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(new Cancelled()), { once: true })
  })
  if (signal.aborted) throw new Cancelled()
  await Promise.race([node.driver.flush(), aborted])
}

/**
 * Has everybody wait who uses a node or lies above it.
 * @param filter  name of a filter that is there meanwhile
 * @param signal  gives up
 * @throws CommandError when somebody above the node cannot be moved
 */
export async function overlayPlace(
  graph: Graph,
  node: BlockNode,
  overlay: BlockNode,
  filter: string,
  signal: AbortSignal,
): Promise<OverlayPlace> {
  const top = graph.insertFilter(filter, node, () => [], { driver: 'mirror_top' })
  const sections: Disposable[] = []
  const letGo = () => {
    for (const section of sections.splice(0).reverse()) section[Symbol.dispose]()
    top.remove()
  }
  try {
    sections.push(await top.node.drain(signal))
    const held = await graph.surgery.hold(node, [top.node], overlay, { moving: true, signal })
    sections.push(held, await node.drain(signal))
    // What was written here by then is the overlay's to show, whose flush does not reach below it.
    await flushUnless(node, signal)
    const put = () => graph.surgery.append(top, overlay, held.nodes)
    return { put, [Symbol.dispose]: letGo }
  } catch (error) {
    letGo()
    throw error
  }
}

/**
 * Everybody who uses a node uses its overlay from now on. They wait meanwhile.
 * @param filter  name of a filter that is there meanwhile
 * @throws CommandError when somebody above the node cannot be moved; nothing is changed then
 */
export async function appendOverlay(
  graph: Graph,
  node: BlockNode,
  overlay: BlockNode,
  filter: string,
): Promise<void> {
  await checkOverlay(graph, node, overlay)
  using place = await restingSoon(node.name, (signal) => overlayPlace(graph, node, overlay, filter, signal))
  const { keep } = await place.put()
  keep()
}

/** What the image stored is lost, and dirty in its bitmaps. @throws CommandError when somebody uses it */
export async function emptyImage(graph: Graph, node: BlockNode): Promise<void> {
  const { driver } = node
  if (driver.empty === undefined) throw new CommandError(`Node '${node.name}' is no image of its own`)
  await graph.freshen(node.name)
  const claim = await graph.claim(USER, node, { use: ['write'], share: ['write unchanged'] })
  try {
    await markStored(node)
    await driver.empty()
  } finally {
    await claim.release()
  }
}

/** Where something is stored, something else may show afterwards. */
async function markStored(node: BlockNode): Promise<void> {
  if (node.bitmaps.empty) return
  for (let at = 0, end = node.size(); at < end; ) {
    const { allocated, length } = await node.status(at, end - at)
    if (allocated) node.bitmaps.mark(at, length)
    at += length
  }
}

/** @throws CommandError when the image cannot be written */
export async function nameBacking(
  graph: Graph,
  node: BlockNode,
  backing: BackingFile | undefined,
): Promise<void> {
  const holdings = new Holdings(graph, USER)
  try {
    await restingSoon(node.name, (signal) => holdings.makeWritable(node, signal))
    await holdings.claimUnchanged(node)
    await graph.surgery.rename(node, backing)
  } catch (error) {
    await holdings.letGo({ error })
  }
  await holdings.letGo()
}
