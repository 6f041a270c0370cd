// SPDX-License-Identifier: Apache-2.0
// Entry of a disk's worker thread. Started by handle.ts only.

import { parentPort, workerData } from 'node:worker_threads'
import { createEngine } from '../../native/engine.js'
import { scheduleFor } from '../../native/process.js'
import { Iothread } from './iothread.js'
import type { FromWorker, ToWorker, WorkerSetup } from './messages.js'

/** Buffers of 1 MiB, mapped when they are needed: for jobs and the clients of exports, formats and commands. */
const MOST_SLOTS = 192
/** Those of them that jobs and clients do not take one by one; see IoEngine.takePiece(). */
const SET_APART = 32

const port = parentPort
if (port === null) throw new Error('not a worker thread')
const setup = workerData as WorkerSetup
scheduleFor('throughput')
const engine = createEngine({ aio: setup.aio, maxSlots: MOST_SLOTS, setApart: SET_APART })
const iothread = new Iothread(engine, (message: FromWorker) => port.postMessage(message))
port.on('message', (message: ToWorker) => void iothread.receive(message))
