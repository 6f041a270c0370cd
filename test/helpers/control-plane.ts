// SPDX-License-Identifier: Apache-2.0
// A control plane behind a real Unix socket, in this process: the product's own parts, composed for a test.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Handlers } from '../../daemon/control/commands.js'
import { ControlPlane } from '../../daemon/control/control.js'
import { Listener } from '../../daemon/control/listener.js'
import type { OutboxLimits } from '../../daemon/control/outbox.js'
import { sessionCommands } from '../../daemon/control/session-commands.js'
import { listenUnix } from '../../daemon/sockets.js'
import { PROTOCOL_VERSION } from '../../daemon/version.js'
import { ControlClient } from './control-client.js'

export interface Served {
  readonly control: ControlPlane
  readonly path: string
  close(): Promise<void>
}

/** @param handlers  beside those for the session itself */
export async function serve(handlers: Handlers = {}, limits?: OutboxLimits): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'control-'))
  const path = join(folder, 's')
  const log = pino({ level: 'silent' })
  const control = new ControlPlane({
    version: PROTOCOL_VERSION,
    log,
    ...(limits === undefined ? {} : { limits }),
  })
  control.addHandlers(
    sessionCommands({
      version: PROTOCOL_VERSION,
      dispatcher: control.dispatcher,
      chardevs: () => [],
      quit: () => Promise.resolve(),
    }),
  )
  control.addHandlers(handlers)
  const bound = await listenUnix({ path, mode: 0o600, group: undefined })
  const listener = new Listener(bound.server, 'test', `unix:${path},server=on`, log)
  listener.serve((socket) => control.serve(socket, 'test'))
  const close = async () => {
    await control.closeAll(100)
    bound.remove()
    rmSync(folder, { recursive: true, force: true })
  }
  return { control, path, close }
}

/** A promise and its settling, for handlers that answer when the test says so. */
export function deferred<T>(): { promise: Promise<T>; resolve(value: T): void; reject(error: Error): void } {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

export { ControlClient }
