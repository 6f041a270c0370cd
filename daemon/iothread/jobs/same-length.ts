// SPDX-License-Identifier: Apache-2.0
// Lengths of source and target of a copying job: that they are as expected, and one in the end. Used by job bodies before they copy.

import { CommandError } from '../../errors.js'
import { type BlockNode, SECTOR } from '../block/node.js'

export const DIFFERENT_SIZES = 'Source and target image have different sizes'

/** When the claims are there. @throws CommandError when the length is not what the job was made for */
export function checkLength(node: BlockNode, expected: number): void {
  if (node.length() !== expected)
    throw new CommandError(`Node '${node.name}' was resized by another program just now; try again`)
}

/** The same in whole sectors. */
export function isSameSize(source: BlockNode, target: BlockNode): boolean {
  return Math.ceil(source.length() / SECTOR) === Math.ceil(target.length() / SECTOR)
}

/**
 * Lengths must be the same to the sector; within the last sector the target follows the source, or reads as zero.
 * @param touched  told before the target is changed
 */
export async function equalizeLength(
  source: BlockNode,
  target: BlockNode,
  touched: () => void,
): Promise<void> {
  if (!isSameSize(source, target)) throw new Error(DIFFERENT_SIZES)
  const [from, to] = [source.length(), target.length()]
  if (to === from) return
  touched()
  if (to < from) await target.resize(from)
  else await target.zero(from, to - from, { unmap: false, fast: false })
}

/** A base that is longer than what is committed to it stays so. @param touched  told before the target is changed */
export async function lengthen(source: BlockNode, target: BlockNode, touched: () => void): Promise<void> {
  if (target.length() >= source.length()) return
  touched()
  await target.resize(source.length())
}
