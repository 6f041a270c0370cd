// SPDX-License-Identifier: Apache-2.0
// Joins the commands about disks to real workers, and lets the command line use them. Made by run.ts for Daemon.

import type { Logger } from 'pino'
import { optionValue } from '../protocol/keyval.js'
import { exportOptions, nbdServerOptions } from '../protocol/schema/exports.js'
import type { CommandName } from '../protocol/schema/index.js'
import { blockdevOptions } from '../protocol/schema/nodes.js'
import { objectOptions } from '../protocol/schema/objects.js'
import type { CommandCall } from './control/commands.js'
import type { ControlPlane } from './control/control.js'
import { createHandlers } from './control/handlers/index.js'
import { SPARES } from './control/spare-workers.js'
import type { DefinitionKind, DiskCommands } from './daemon.js'
import { startImagesWorker } from './images/handle.js'
import type { StartWorker } from './iothread/handle.js'
import { memoryWorkerStarter } from './memory/handle.js'
import { startNbdWorker } from './nbd/handle.js'
import type { Settings } from './options.js'

/** Who asks for what stands on the command line. */
const COMMAND_LINE: CommandCall = {
  session: { id: 0, label: 'command line', peer: '' },
  takeDescriptor: () => undefined,
}

/** The command that an option stands for. */
const calls: Readonly<Record<DefinitionKind, (text: string) => { name: CommandName; args: unknown }>> = {
  blockdev: (text) => ({ name: 'blockdev-add', args: optionValue(blockdevOptions, text, 'driver') }),
  object: (text) => ({ name: 'object-add', args: optionValue(objectOptions, text, 'qom-type') }),
  export: (text) => ({ name: 'block-export-add', args: optionValue(exportOptions, text, 'type') }),
  'nbd-server': (text) => {
    const { addr, ...more } = optionValue(nbdServerOptions, text)
    const { type, ...data } = addr
    return { name: 'nbd-server-start', args: { ...more, addr: { type, data } } }
  },
}

export function makeDisks(
  control: ControlPlane,
  { aio, expectDisks }: Pick<Settings, 'aio' | 'expectDisks'>,
  log: Logger,
  startWorker: StartWorker,
): DiskCommands {
  const { handlers, shutdown, listenImages, reload } = createHandlers({
    startWorker,
    startMemory: memoryWorkerStarter({ aio }),
    startNbd: startNbdWorker,
    startImages: startImagesWorker,
    events: control.events,
    descriptors: control.descriptors,
    spares: { ...SPARES, fromStart: expectDisks },
    log,
  })
  return {
    handlers,
    shutdown,
    listenImages,
    reload,
    async define(kind, text) {
      const { name, args } = calls[kind](text)
      await handlers[name]?.(args as never, COMMAND_LINE)
    },
  }
}
