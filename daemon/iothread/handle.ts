// SPDX-License-Identifier: Apache-2.0
// A disk's worker as the main thread sees it. The only file of iothread/ besides messages.ts that control/ may import.

import { entryFile } from '../common/entries.js'
import * as common from '../common/worker-handle.js'
import type { Report, Requests, WorkerSetup } from './messages.js'

export type WorkerHandle = common.WorkerHandle<Requests, Report>
export type StartWorker = (name: string) => WorkerHandle

/** Starts workers with what they have in common. */
export function workerStarter(setup: Omit<WorkerSetup, 'name'>): StartWorker {
  const script = entryFile('iothread')
  return (name) => common.startThread<Requests, Report>({ name, script, setup: { ...setup, name } })
}
