// SPDX-License-Identifier: Apache-2.0
// A memory worker as the main thread sees it. The only file of memory/ besides messages.ts that control/ may import.

import { entryFile } from '../common/entries.js'
import * as common from '../common/worker-handle.js'
import type { Report, Requests, WorkerSetup } from './messages.js'

export type MemoryHandle = common.WorkerHandle<Requests, Report>
export type StartMemoryWorker = (name: string) => MemoryHandle

/** Starts workers with what they have in common. */
export function memoryWorkerStarter(setup: Omit<WorkerSetup, 'name'>): StartMemoryWorker {
  const script = entryFile('memory')
  return (name) => common.startThread<Requests, Report>({ name, script, setup: { ...setup, name } })
}
