// SPDX-License-Identifier: Apache-2.0
// transaction: several changes at one moment, all or none.

import { blockdevBackup, driveBackup } from './backup.js'
import { bitmap, bitmapAdd, bitmapMerge } from './bitmaps.js'
import { blockdevSnapshot, blockdevSnapshotSync } from './chain.js'
import { arrayOf, command, enumOf, optional, required, struct, union } from './types.js'

const kind = enumOf('TransactionActionKind', [
  'abort',
  'block-dirty-bitmap-add',
  'block-dirty-bitmap-remove',
  'block-dirty-bitmap-clear',
  'block-dirty-bitmap-enable',
  'block-dirty-bitmap-disable',
  'block-dirty-bitmap-merge',
  'blockdev-backup',
  'blockdev-snapshot',
  'blockdev-snapshot-sync',
  'drive-backup',
])

const doc = 'Arguments, as of the command of this name.'
const ofBitmap = { data: required(bitmap, doc) }

const action = union('TransactionAction', { type: required(kind, 'What is to be done.') }, 'type', {
  abort: { data: required(struct('Abort', {}), 'Nothing: the transaction fails, for tests.') },
  'block-dirty-bitmap-add': { data: required(bitmapAdd, doc) },
  'block-dirty-bitmap-remove': ofBitmap,
  'block-dirty-bitmap-clear': ofBitmap,
  'block-dirty-bitmap-enable': ofBitmap,
  'block-dirty-bitmap-disable': ofBitmap,
  'block-dirty-bitmap-merge': { data: required(bitmapMerge, doc) },
  'blockdev-backup': { data: required(blockdevBackup, doc) },
  'blockdev-snapshot': { data: required(blockdevSnapshot, doc) },
  'blockdev-snapshot-sync': { data: required(blockdevSnapshotSync, doc) },
  'drive-backup': { data: required(driveBackup, doc) },
})

const completionMode = enumOf('ActionCompletionMode', ['individual', 'grouped'])

export const transactionCommands = {
  transaction: command({
    doc: 'Makes several changes at one moment of the writes to all nodes concerned. If one cannot be made, none is.',
    arguments: struct('transaction-arg', {
      actions: required(arrayOf(action), 'What is to be done, in this order.'),
      properties: optional(
        struct('TransactionProperties', {
          'completion-mode': optional(
            completionMode,
            'grouped: all jobs succeed, or none; for backups only.',
            { default: 'individual' },
          ),
        }),
        'How the jobs of the transaction end.',
      ),
    }),
  }),
}
