// SPDX-License-Identifier: Apache-2.0
// Entry of a memory worker's thread. Started by handle.ts only.

import { parentPort, workerData } from 'node:worker_threads'
import { createEngine } from '../../native/engine.js'
import { scheduleFor } from '../../native/process.js'
import { MemoryThread } from './memory-thread.js'
import type { FromWorker, ToWorker, WorkerSetup } from './messages.js'
import { MOST_SLOTS } from './slots.js'

const port = parentPort
if (port === null) throw new Error('not a worker thread')
const setup = workerData as WorkerSetup
scheduleFor('throughput')
const thread = new MemoryThread(
  createEngine({ aio: setup.aio, maxSlots: MOST_SLOTS }),
  (message: FromWorker) => port.postMessage(message),
)
port.on('message', (message: ToWorker) => void thread.receive(message))
