// SPDX-License-Identifier: Apache-2.0
// The end of a worker thread: asked first, then ended. Used by those who have workers.

import type { Logger } from 'pino'

/** What both kinds of workers answer to. */
interface Endable {
  readonly name: string
  request(name: 'shutdown', args: { deadlineMs: number }): Promise<{ left: number }>
  terminate(): Promise<void>
}

/** Time a worker that nobody needs gets to end by itself, milliseconds. It has nothing open then. */
export const FAREWELL_MS = 1000

/** Answers when the worker has closed everything, or cannot. Never rejects. */
export async function askToEnd(handle: Endable, deadlineMs: number, log: Logger): Promise<void> {
  try {
    const { left } = await handle.request('shutdown', { deadlineMs })
    if (left > 0) log.warn({ iothread: handle.name, left }, 'requests left in flight')
  } catch (error) {
    log.debug({ iothread: handle.name, err: error }, 'iothread did not end by itself')
  }
}

/** Answers when the thread is gone. Never rejects. */
export async function endThread(handle: Endable, log: Logger): Promise<void> {
  await handle.terminate().catch((error: unknown) => {
    log.warn({ iothread: handle.name, err: error }, 'iothread could not be ended')
  })
}
