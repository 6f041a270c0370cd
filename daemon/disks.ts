// SPDX-License-Identifier: Apache-2.0
// Joins the commands about disks to real workers, and lets the command line use them. Made by main.ts for Daemon.

import type { Logger } from 'pino'
import type { AioChoice } from '../native/types.js'
import { optionValue } from '../protocol/keyval.js'
import { blockdevOptions } from '../protocol/schema/nodes.js'
import { objectOptions } from '../protocol/schema/objects.js'
import type { CommandCall } from './control/commands.js'
import type { ControlPlane } from './control/control.js'
import { createHandlers } from './control/handlers/index.js'
import type { DiskCommands } from './daemon.js'
import { workerStarter } from './iothread/handle.js'
import { memoryWorkerStarter } from './memory/handle.js'
import { startNbdWorker } from './nbd/handle.js'

/** Who asks for what stands on the command line. */
const COMMAND_LINE: CommandCall = {
  session: { id: 0, label: 'command line', peer: '' },
  takeDescriptor: () => undefined,
}

export function makeDisks(control: ControlPlane, aio: AioChoice, log: Logger): DiskCommands {
  const { handlers, shutdown } = createHandlers({
    startWorker: workerStarter({ aio }),
    startMemory: memoryWorkerStarter({ aio }),
    startNbd: startNbdWorker,
    events: control.events,
    descriptors: control.descriptors,
    log,
  })
  return {
    handlers,
    shutdown,
    async defineNode(text) {
      await handlers['blockdev-add']?.(optionValue(blockdevOptions, text, 'driver'), COMMAND_LINE)
    },
    async defineObject(text) {
      await handlers['object-add']?.(optionValue(objectOptions, text, 'qom-type'), COMMAND_LINE)
    },
  }
}
