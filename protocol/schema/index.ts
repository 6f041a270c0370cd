// SPDX-License-Identifier: Apache-2.0
// The schema: every command and event there is. Announces what exists and nothing else.

import { backupCommands } from './backup.js'
import { bitmapCommands } from './bitmaps.js'
import { chainCommands } from './chain.js'
import { checkCommands } from './check.js'
import { createCommands } from './create.js'
import { descriptorCommands } from './descriptors.js'
import { events } from './events.js'
import { exportCommands } from './exports.js'
import { inspectCommands } from './inspect.js'
import { jobCommands } from './jobs.js'
import { memoryCommands } from './memory.js'
import { migrateCommands } from './migrate.js'
import { mirrorCommands } from './mirror.js'
import { nodeCommands } from './nodes.js'
import { objectCommands } from './objects.js'
import { resizeCommands } from './resize.js'
import { sessionCommands } from './session.js'
import { transactionCommands } from './transaction.js'
import type { Infer } from './types.js'

export const commands = {
  ...sessionCommands,
  ...jobCommands,
  ...nodeCommands,
  ...createCommands,
  ...checkCommands,
  ...resizeCommands,
  ...mirrorCommands,
  ...backupCommands,
  ...chainCommands,
  ...memoryCommands,
  ...migrateCommands,
  ...inspectCommands,
  ...bitmapCommands,
  ...exportCommands,
  ...objectCommands,
  ...descriptorCommands,
  ...transactionCommands,
}

export { events }

export type CommandName = keyof typeof commands
export type EventName = keyof typeof events

/** What a handler gets: validated, absent members absent. */
export type Arguments<N extends CommandName> = Infer<(typeof commands)[N]>['takes']
/** What a handler gives; void for commands that return nothing. */
export type Returns<N extends CommandName> = Infer<(typeof commands)[N]>['gives']
export type EventData<N extends EventName> = Infer<(typeof events)[N]>
