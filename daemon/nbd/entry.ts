// SPDX-License-Identifier: Apache-2.0
// Entry of the NBD server's worker thread. Started by handle.ts only.

import { parentPort } from 'node:worker_threads'
import type { FromWorker, ToWorker } from './messages.js'
import { NbdThread } from './nbd-thread.js'

const port = parentPort
if (port === null) throw new Error('not a worker thread')
const thread = new NbdThread((message: FromWorker) => port.postMessage(message))
port.on('message', (message: ToWorker) => void thread.receive(message))
