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

/** Begins threads before anybody asks for one: who asks first gets them. */
export function begunAhead(start: StartWorker, count: number): StartWorker {
  const begun = Array.from({ length: count }, (_, index) => start(`spare${index}`))
  return (name) => begun.shift()?.passOn(name) ?? start(name)
}
