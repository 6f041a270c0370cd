// SPDX-License-Identifier: Apache-2.0
// Entry of the thread that encrypts an NBD node's connections. Started by handle.ts only.

import { parentPort, workerData } from 'node:worker_threads'
import { scheduleFor } from '../../native/process.js'
import type { FromWorker, ToWorker, WorkerSetup } from './messages.js'
import { TlsThread } from './tls-thread.js'

const port = parentPort
if (port === null) throw new Error('not a worker thread')
scheduleFor('throughput')
const { credentials } = workerData as WorkerSetup
const thread = new TlsThread(credentials, (message: FromWorker) => port.postMessage(message))
port.on('message', (message: ToWorker) => void thread.receive(message))
