// SPDX-License-Identifier: Apache-2.0
// The end of a worker thread: asked first, then ended. Used by DiskWorkers and SpareWorkers.

import type { Logger } from 'pino'
import type { WorkerHandle } from '../iothread/handle.js'

/** Time a worker that nobody needs gets to end by itself, milliseconds. It has nothing open then. */
export const FAREWELL_MS = 1000

/** Answers when the worker has closed everything, or cannot. Never rejects. */
export async function askToEnd(handle: WorkerHandle, deadlineMs: number, log: Logger): Promise<void> {
  try {
    const { left } = await handle.request('shutdown', { deadlineMs })
    if (left > 0) log.warn({ iothread: handle.name, left }, 'requests left in flight')
  } catch (error) {
    log.debug({ iothread: handle.name, err: error }, 'iothread did not end by itself')
  }
}

/** Answers when the thread is gone. Never rejects. */
export async function endThread(handle: WorkerHandle, log: Logger): Promise<void> {
  await handle.terminate().catch((error: unknown) => {
    log.warn({ iothread: handle.name, err: error }, 'iothread could not be ended')
  })
}
