// SPDX-License-Identifier: Apache-2.0
// The mirror job's two commands. Members stand in the order in which they are checked.

import { onDiverge } from './convergence.js'
import {
  bool,
  command,
  enumOf,
  int,
  type Members,
  optional,
  required,
  size,
  str,
  struct,
  uint32,
} from './types.js'
import { yielding } from './yielding.js'

const mirrorSyncMode = enumOf('MirrorSyncMode', ['top', 'full', 'none', 'incremental', 'bitmap'])
export const copyMode = enumOf('MirrorCopyMode', ['background', 'write-blocking'])
export const onError = enumOf('BlockdevOnError', ['report', 'ignore', 'enospc', 'stop', 'auto'])
export const bitmapSyncMode = enumOf('BitmapSyncMode', ['on-success', 'never', 'always'])
export const newImageMode = enumOf('NewImageMode', ['existing', 'absolute-paths'])

const sync = required(
  mirrorSyncMode,
  'What to copy: full, top, none (only what is written from now on), or bitmap, incremental (what `bitmap` has marked).',
)

const tuning = {
  speed: optional(int, 'Bytes per second, 0 = no limit.', { default: 0 }),
  granularity: optional(
    uint32,
    'Bytes per bit of the dirty bitmap: a power of two from 512 to 64 MiB; 0 = 64 KiB.',
    { default: 0 },
  ),
  'buf-size': optional(int, 'Most bytes in flight; 0 = 16 MiB.', { default: 0 }),
  'on-source-error': optional(onError, 'When reading the source fails.', { default: 'report' }),
  'on-target-error': optional(onError, 'When writing the target fails.', { default: 'report' }),
} satisfies Members

const mode = optional(copyMode, 'When guest writes reach the target: later, or before they complete.', {
  default: 'background',
})

const ending = {
  'auto-finalize': optional(bool, 'Apply the result without job-finalize.', { default: true }),
  'auto-dismiss': optional(bool, 'Leave the list of jobs without job-dismiss.', { default: true }),
} satisfies Members

const extensions = {
  'target-is-zero': optional(bool, 'The user vouches that the target reads as zeroes everywhere.', {
    default: false,
    extension: true,
  }),
  bitmap: optional(str, 'For sync bitmap and incremental: dirty bitmap of the source with what to copy.', {
    extension: true,
  }),
  'bitmap-mode': optional(
    bitmapSyncMode,
    'What the bitmap shows in the end. on-success: nothing after success, else what it did and what has changed; never: always that; always: after a failure what was not copied. Must be given with sync bitmap; is on-success with incremental.',
    { extension: true },
  ),
  'x-auto-complete': optional(
    bool,
    'Complete as soon as the job is ready: a one-shot copy. No other program may write the source then, unless the source has force-share.',
    {
      default: false,
    },
  ),
  'x-sparse': optional(
    size,
    'Zeroes among data that are not stored: shortest run, bytes, at least 4096; 0: 64 KiB. On targets with clusters of 4 KiB or more a run is whole clusters.',
    { default: 0 },
  ),
  'x-on-diverge': onDiverge,
  'x-yield': yielding,
  'x-budget': optional(str, 'Id of the x-budget object whose bandwidth it shares with other jobs.'),
} satisfies Members

export const mirrorCommands = {
  'blockdev-mirror': command({
    doc: 'Copies a node to another node and keeps both equal until it is completed or cancelled.',
    arguments: struct('blockdev-mirror-arg', {
      'job-id': optional(str, 'Job id; needed here, because a node has none to inherit.'),
      device: required(str, 'Source node, a root of its graph.'),
      target: required(str, 'Target node, of the same size.'),
      replaces: optional(
        str,
        'Node of the source that the target replaces on completion; default: the source.',
      ),
      sync,
      ...tuning,
      'filter-node-name': optional(str, 'Name of the filter node above the source while the job runs.'),
      'copy-mode': mode,
      ...ending,
      ...extensions,
    }),
  }),
  'drive-mirror': command({
    doc: 'Copies a node to an image file, which it makes or opens itself. Completed, users of the source go on with the target, whose node goes with the last of them; without users, and after any other end, it goes with the job.',
    arguments: struct('DriveMirror', {
      'job-id': optional(str, 'Job id; default: the name of the device.'),
      device: required(str, 'Source node, a root of its graph.'),
      target: required(str, 'File name of the target.'),
      format: optional(str, 'Format of the target; default: that of the source.'),
      'node-name': optional(str, 'Name of the target node; default: generated.'),
      replaces: optional(
        str,
        'Node of the source that the target replaces on completion; default: the source.',
      ),
      sync,
      mode: optional(newImageMode, 'Open an existing image, or make a new one (overwriting).', {
        default: 'absolute-paths',
      }),
      ...tuning,
      unmap: optional(bool, 'Zeroes may become holes in the target.', { default: true }),
      'copy-mode': mode,
      ...ending,
      ...extensions,
    }),
  }),
}
