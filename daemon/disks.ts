// SPDX-License-Identifier: Apache-2.0
// The disk side of the composition root: command handlers over workers, and the command line's nodes and objects,
// which go through the same handlers as a client's.

import type { Logger } from 'pino'
import { optionValue } from '../protocol/keyval.js'
import { type Arguments, type CommandName, commands } from '../protocol/schema/index.js'
import type { EventSink, Handlers } from './control/commands.js'
import { createHandlers } from './control/handlers/index.js'
import { workerStarter } from './iothread/handle.js'
import type { Settings } from './options.js'

/** Commands that work on disks, and their end. */
export interface Disks {
  readonly handlers: Handlers
  /** Refuses new work, ends jobs, closes nodes; answers by the deadline whatever is stuck. */
  shutdown(deadlineMs: number): Promise<void>
  /** Runs a command for `--blockdev` or `--object`. @param text  option string or JSON */
  define(command: 'blockdev-add' | 'object-add', text: string): Promise<void>
}

/** Who asks when the command line does. */
const COMMAND_LINE = { session: { id: 0, label: 'command line', peer: 'command line' } }

export function createDisks(settings: Settings, events: EventSink, log: Logger): Disks {
  const startWorker = workerStarter({ aio: settings.aio, logLevel: settings.logLevel })
  const set = createHandlers({ startWorker, events, log })
  const handlers: Handlers = set.handlers
  return {
    handlers,
    shutdown: (deadlineMs) => set.shutdown(deadlineMs),
    async define(command, text) {
      if (command === 'blockdev-add') await run('blockdev-add', text, 'driver')
      else await run('object-add', text, 'qom-type')
    },
  }

  async function run<N extends CommandName>(command: N, text: string, implied: string): Promise<void> {
    const args = optionValue(commands[command].arguments, text, implied) as Arguments<N>
    await handlers[command]?.(args, COMMAND_LINE)
  }
}
