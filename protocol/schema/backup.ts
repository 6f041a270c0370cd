// SPDX-License-Identifier: Apache-2.0
// The backup job's two commands. Members stand in the order in which they are checked.

import { onCbwError } from './drivers/copy-before-write.js'
import { bitmapSyncMode, newImageMode, onError } from './mirror.js'
import { bool, command, enumOf, int, type Members, optional, required, size, str, struct } from './types.js'
import { yielding } from './yielding.js'

const syncMode = enumOf('MirrorSyncMode', ['top', 'full', 'none', 'incremental', 'bitmap'])

const perf = struct('BackupPerf', {
  'use-copy-range': optional(bool, 'Accepted; data is read and written either way.', { default: false }),
  'max-workers': optional(int, 'Pieces in flight, at least 1; more than 16 count as 16.', { default: 16 }),
  'max-chunk': optional(int, 'Longest piece, bytes; 0 = 1 MiB, which is also the most.', { default: 0 }),
  'min-cluster-size': optional(
    size,
    'Least unit of copying, bytes, a power of two; 0 = 64 KiB, or what the target stores whole.',
    { default: 0 },
  ),
})

const common = {
  'job-id': optional(str, 'Job id; of drive-backup by default the name of the device.'),
  device: required(str, 'Source node.'),
  sync: required(
    syncMode,
    'What to copy: full, top, none (only what is about to be replaced), incremental or bitmap.',
  ),
  speed: optional(int, 'Bytes per second, 0 = no limit. What is copied before a write is not held up.', {
    default: 0,
  }),
  bitmap: optional(str, 'Dirty bitmap of the source that says what to copy, or is to say so next time.'),
  'bitmap-mode': optional(
    bitmapSyncMode,
    'When the bitmap forgets what was copied; always: after a failure what was copied, never: not at all.',
  ),
  compress: optional(bool, 'Stored compressed where the target can.', { default: false }),
  'on-source-error': optional(onError, 'When reading the source fails.', { default: 'report' }),
  'on-target-error': optional(onError, 'When writing the target fails.', { default: 'report' }),
  'on-cbw-error': optional(
    onCbwError,
    'When old content cannot be copied before a write: the write fails, or the job does.',
    { default: 'break-guest-write', extension: true },
  ),
  'auto-finalize': optional(bool, 'Apply the result without job-finalize.', { default: true }),
  'auto-dismiss': optional(bool, 'Leave the list of jobs without job-dismiss.', { default: true }),
  'filter-node-name': optional(str, 'Name of the filter node above the source while the job runs.'),
  'discard-source': optional(bool, 'Discard in the source what was copied.', { default: false }),
  'x-perf': optional(perf, 'How much is done at once.'),
  'x-cbw-timeout': optional(
    int,
    'Longest time that a write waits for the target, seconds; then it is as if the copy had failed. 0 = without end.',
    { default: 0 },
  ),
  'x-yield': yielding,
  'x-budget': optional(str, 'Id of the x-budget object whose bandwidth it shares with other jobs.'),
} satisfies Members

export const blockdevBackup = struct('BlockdevBackup', {
  ...common,
  target: required(str, 'Target node, of the same size.'),
})

export const driveBackup = struct('DriveBackup', {
  ...common,
  target: required(str, 'File name of the target.'),
  format: optional(str, 'Format of the target; default: that of the source.'),
  mode: optional(newImageMode, 'Open an existing image, or make a new one (overwriting).', {
    default: 'absolute-paths',
  }),
})

export const backupCommands = {
  'blockdev-backup': command({
    doc: 'Copies a node, as it is when the command is answered, to another node. Writes to it go on meanwhile.',
    arguments: blockdevBackup,
  }),
  'drive-backup': command({
    doc: 'Copies a node, as it is when the command is answered, to an image file, which it makes or opens itself.',
    arguments: driveBackup,
  }),
}
