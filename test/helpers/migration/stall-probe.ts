// SPDX-License-Identifier: Apache-2.0
// How long a QEMU's monitor is silent: `query-status` every 5 ms on a connection of its own, while something else goes on.

import { Probe, type Question } from '../probe.js'
import type { Guest } from './guest.js'

const STATUS: Question = { command: 'query-status', everyMs: 5 }

/** Asking; `stop` tells the longest answer and the 99th percentile. One at a time for a guest. */
export async function stallProbe(guest: Guest): Promise<Probe> {
  return await Probe.start(guest.monitor('probe'), STATUS)
}
