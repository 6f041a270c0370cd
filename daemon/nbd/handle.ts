// SPDX-License-Identifier: Apache-2.0
// The NBD server's worker as the main thread sees it. The only file of nbd/ besides messages.ts that control/ may import.

import { entryFile } from '../common/entries.js'
import * as common from '../common/worker-handle.js'
import type { Report, Requests } from './messages.js'

export type NbdHandle = common.WorkerHandle<Requests, Report>
export type StartNbdWorker = (name: string) => NbdHandle

export const startNbdWorker: StartNbdWorker = (name) =>
  common.startThread<Requests, Report>({
    name,
    script: entryFile('nbd'),
    setup: { name },
  })
