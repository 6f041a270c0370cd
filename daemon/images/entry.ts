// SPDX-License-Identifier: Apache-2.0
// Entry of the images server's worker thread. Started by handle.ts only.

import { parentPort } from 'node:worker_threads'
import { ImagesThread } from './images-thread.js'
import type { FromWorker, ToWorker } from './messages.js'

const port = parentPort
if (port === null) throw new Error('not a worker thread')
const thread = new ImagesThread((message: FromWorker) => port.postMessage(message))
port.on('message', (message: ToWorker) => void thread.receive(message))
