// SPDX-License-Identifier: Apache-2.0
// Backing chains: jobs that shorten them, overlays on nodes in use, names of backing files.

import { bool, command, enumOf, int, type Members, optional, required, str, struct } from './types.js'
import { yielding } from './yielding.js'

const onError = enumOf('BlockdevOnError', ['report', 'ignore', 'enospc', 'stop', 'auto'])
const newImageMode = enumOf('NewImageMode', ['existing', 'absolute-paths'])

const running = {
  speed: optional(int, 'Bytes per second, 0 = no limit.', { default: 0 }),
  'on-error': optional(onError, 'When reading or writing fails.', { default: 'report' }),
  'x-yield': yielding,
  'x-budget': optional(str, 'Id of the x-budget object whose bandwidth it shares with other jobs.'),
  'filter-node-name': optional(str, 'Name of the filter node that is there while the job runs.'),
  'auto-finalize': optional(bool, 'Apply the result without job-finalize.', { default: true }),
  'auto-dismiss': optional(bool, 'Leave the list of jobs without job-dismiss.', { default: true }),
} satisfies Members

const backingName = {
  'backing-file': optional(str, 'How the image above is to name the base; default: its file name.'),
  'backing-mask-protocol': optional(bool, 'Taken: the format of a base without one is always called raw.', {
    default: false,
  }),
} satisfies Members

export const blockdevSnapshot = struct('BlockdevSnapshot', {
  node: required(str, 'Node that becomes the backing file.'),
  overlay: required(str, 'Node of an image that was opened with backing: null and that nobody uses.'),
})

export const blockdevSnapshotSync = struct('BlockdevSnapshotSync', {
  device: optional(str, 'Node that becomes the backing file.'),
  'node-name': optional(str, 'The same.'),
  'snapshot-file': required(str, 'File name of the overlay.'),
  'snapshot-node-name': optional(str, 'Name of its node; default: generated.'),
  format: optional(str, 'Its format.', { default: 'qcow2' }),
  mode: optional(newImageMode, 'Make the overlay, or open one that is there.', {
    default: 'absolute-paths',
  }),
})

export const chainCommands = {
  'block-commit': command({
    doc: 'Copies what images of a backing chain hold into an image below them, which then takes their place.',
    arguments: struct('block-commit-arg', {
      'job-id': optional(str, 'Job id; needed here, because a node has none to inherit.'),
      device: required(str, 'Node at the top of the chain, a root of its graph.'),
      'base-node': optional(str, 'Node that gets the data; default: the lowest of the chain.'),
      base: optional(str, 'File name of the image that gets the data, in place of base-node.'),
      'top-node': optional(str, 'Uppermost node to be copied; default: the device, which is active.'),
      top: optional(str, 'File name of the uppermost image to be copied, in place of top-node.'),
      ...backingName,
      ...running,
    }),
  }),
  'block-stream': command({
    doc: 'Copies what shows through an image into it, so that it needs the images below it no more.',
    arguments: struct('block-stream-arg', {
      'job-id': optional(str, 'Job id; needed here, because a node has none to inherit.'),
      device: required(str, 'Node of the image that gets the data.'),
      base: optional(str, 'File name of the image that stays below it; default: none stays.'),
      'base-node': optional(str, 'The same by its node.'),
      ...backingName,
      bottom: optional(str, 'Lowest node that is copied, in place of the base.'),
      ...running,
    }),
  }),
  'change-backing-file': command({
    doc: 'Changes the name an image has for its backing file. What is open stays as it is.',
    arguments: struct('change-backing-file-arg', {
      device: required(str, 'Node at the top of the chain.'),
      'image-node-name': required(str, 'Node of the image that is changed.'),
      'backing-file': required(str, 'The new name.'),
    }),
  }),
  'x-image-empty': command({
    doc: 'Drops everything that an image stores, so that its backing file shows, or zeroes.',
    arguments: struct('x-image-empty-arg', { node: required(str, 'Node of the image; nothing uses it.') }),
  }),
  'blockdev-snapshot': command({
    doc: 'Puts an overlay on a node: whoever uses the node uses the overlay from then on.',
    arguments: blockdevSnapshot,
  }),
  'blockdev-snapshot-sync': command({
    doc: 'The same with an overlay that is made for it.',
    arguments: blockdevSnapshotSync,
  }),
}
