// SPDX-License-Identifier: Apache-2.0
// What Node cannot do for a daemon: end without waiting, talk to the service manager, and say
// what it wants of the scheduler. Used by the entry points.

import { addon } from './binding.js'

/** Ends the process now: no exit handlers, nothing flushed, stuck I/O not waited for. */
export function exitNow(code: number): never {
  return addon.exitNow(code)
}

/**
 * How the kernel is to treat the calling thread: 'latency' for who answers clients (real-time where that is
 * allowed, else short slices), 'throughput' for who moves data (its wake-ups push nobody aside). A wish: kernels that
 * do not know it ignore it. Threads that a 'latency' thread starts are ordinary ones.
 * @returns 0 or -errno
 */
export function scheduleFor(aim: 'latency' | 'throughput'): number {
  return addon.schedule(aim === 'throughput')
}

/**
 * sd_notify: one datagram like 'READY=1' to $NOTIFY_SOCKET, never waiting.
 * @returns 0, also where no service manager listens; else -errno
 */
export function sdNotify(text: string): number {
  const address = process.env.NOTIFY_SOCKET
  return address === undefined || address === '' ? 0 : addon.notify(address, text)
}
