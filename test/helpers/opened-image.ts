// SPDX-License-Identifier: Apache-2.0
// A qcow2 image opened through the graph of a test, and used roughly: every cluster by itself, errors counted.

import { IoError } from '../../daemon/errors.js'
import type { BlockNode } from '../../daemon/iothread/block/node.js'
import type { TestGraph } from './graph.js'

let opened = 0

/** Opens an image by its file name. `more`: options of the qcow2 node. */
export function openImage(
  g: TestGraph,
  filename: string,
  more: Record<string, unknown> = {},
): Promise<BlockNode> {
  const name = `image${opened++}`
  const file = { driver: 'file', 'node-name': `${name}-file`, filename, discard: 'unmap' }
  return g.add({ driver: 'qcow2', 'node-name': name, discard: 'unmap', file, ...more })
}

/** Waits for work that the disk, or a damaged image, may refuse. @returns whether it did */
export async function refusedByDisk(work: Promise<unknown>): Promise<boolean> {
  try {
    await work
    return false
  } catch (error) {
    if (error instanceof IoError) return true
    throw error
  }
}

/** Reads all of it, and asks for its status. @returns how many pieces failed */
export async function readAll(g: TestGraph, node: BlockNode, piece: number): Promise<number> {
  let failed = 0
  for (let at = 0; at < node.length(); at += piece) {
    const length = Math.min(piece, node.length() - at)
    if (await refusedByDisk(g.read(node, at, length))) failed += 1
    await refusedByDisk(node.status(at, length))
  }
  return failed
}
