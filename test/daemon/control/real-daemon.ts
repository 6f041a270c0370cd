// SPDX-License-Identifier: Apache-2.0
// The command handlers over real workers, without sessions: for tests that need real files.

import { pino } from 'pino'
import type { Test } from 'tap'
import { Descriptors } from '../../../daemon/control/descriptors.js'
import { createHandlers } from '../../../daemon/control/handlers/index.js'
import { SPARES } from '../../../daemon/control/spare-workers.js'
import { startImagesWorker } from '../../../daemon/images/handle.js'
import { workerStarter } from '../../../daemon/iothread/handle.js'
import { memoryWorkerStarter } from '../../../daemon/memory/handle.js'
import { startNbdWorker } from '../../../daemon/nbd/handle.js'
import type { Arguments, CommandName, Returns } from '../../../protocol/schema/index.js'

/** Handlers, an awaitable event stream and the number of workers that live. */
export function realDaemon(t: Test) {
  const descriptors = new Descriptors()
  const seen: string[] = []
  const waiting = new Set<() => void>()
  const start = workerStarter({ aio: 'threads' })
  const alive = new Set<string>()
  const { handlers, shutdown } = createHandlers({
    log: pino({ level: 'silent' }),
    startWorker: (name) => {
      const handle = start(name)
      alive.add(name)
      const terminate = handle.terminate.bind(handle)
      handle.terminate = async () => {
        await terminate()
        alive.delete(name)
      }
      return handle
    },
    startMemory: memoryWorkerStarter({ aio: 'threads' }),
    startNbd: startNbdWorker,
    startImages: startImagesWorker,
    spares: { ...SPARES, ahead: 0, fromStart: 0 },
    descriptors,
    events: {
      emit: (name, data) => {
        const { id, device, status } = data as { id?: string; device?: string; status?: string }
        seen.push(`${id ?? device} ${status ?? name}`)
        for (const wake of waiting) wake()
      },
    },
  })
  t.teardown(() => shutdown(2000))
  const until = (line: string) =>
    new Promise<void>((resolve) => {
      const look = () => {
        if (seen.includes(line)) resolve(void waiting.delete(look))
      }
      waiting.add(look)
      look()
    })
  const run = async <N extends CommandName>(name: N, args: Arguments<N>): Promise<Returns<N>> =>
    (await (handlers[name] as (args: unknown) => unknown)(args)) as never
  return { run, seen, until, alive, shutdown, descriptors }
}
