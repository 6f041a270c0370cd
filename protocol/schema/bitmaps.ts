// SPDX-License-Identifier: Apache-2.0
// Named dirty bitmaps of nodes: what changed since they were cleared.

import { alternate, arrayOf, bool, command, optional, required, str, struct, uint32 } from './types.js'

export const bitmap = struct('BlockDirtyBitmap', {
  node: required(str, 'Name of the node.'),
  name: required(str, 'Name of the bitmap.'),
})

type Source = string | { readonly node: string; readonly name: string }
export const bitmapSource = alternate<Source>('BlockDirtyBitmapOrStr', () => [str, bitmap])

export const bitmapAdd = struct('BlockDirtyBitmapAdd', {
  node: required(str, 'Name of the node.'),
  name: required(str, 'Name of the new bitmap, at most 1023 bytes.'),
  granularity: optional(
    uint32,
    'Bytes per bit, a power of two, at least 512. Default: the cluster size of the image, within 4096 and 65536.',
  ),
  persistent: optional(bool, 'It is stored in the image, which must be qcow2 (version 3).', {
    default: false,
  }),
  disabled: optional(bool, 'It does not follow writes.', { default: false }),
})

export const bitmapMerge = struct('BlockDirtyBitmapMerge', {
  node: required(str, 'Name of the node.'),
  target: required(str, 'Name of the bitmap that is changed.'),
  bitmaps: required(arrayOf(bitmapSource), 'Names of bitmaps of the same node, or bitmaps of others.'),
})

export const bitmapCommands = {
  'block-dirty-bitmap-add': command({
    doc: 'Adds a dirty bitmap to a node. It follows the writes that come through the node.',
    arguments: bitmapAdd,
  }),
  'block-dirty-bitmap-remove': command({
    doc: 'Removes a dirty bitmap, from its image too. The only thing that can be done with an inconsistent one.',
    arguments: bitmap,
  }),
  'block-dirty-bitmap-clear': command({
    doc: 'Forgets everything that a dirty bitmap has marked.',
    arguments: bitmap,
  }),
  'block-dirty-bitmap-enable': command({
    doc: 'Lets a dirty bitmap follow writes.',
    arguments: bitmap,
  }),
  'block-dirty-bitmap-disable': command({
    doc: 'Stops a dirty bitmap from following writes.',
    arguments: bitmap,
  }),
  'block-dirty-bitmap-merge': command({
    doc: 'Marks in one dirty bitmap what others have marked. They may be of other nodes of the same size, and of other granularities.',
    arguments: bitmapMerge,
  }),
  'x-debug-block-dirty-bitmap-sha256': command({
    doc: 'The SHA-256 of what a dirty bitmap has marked, for tests.',
    arguments: bitmap,
    returns: struct('BlockDirtyBitmapSha256', { sha256: required(str, 'In hexadecimal digits.') }),
  }),
}
