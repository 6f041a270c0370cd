// SPDX-License-Identifier: Apache-2.0
// The images server's worker as the main thread sees it. The only file of images/ besides messages.ts that control/ may import.

import { entryFile } from '../common/entries.js'
import * as common from '../common/worker-handle.js'
import type { Report, Requests } from './messages.js'

export type ImagesHandle = common.WorkerHandle<Requests, Report>
export type StartImagesWorker = (name: string) => ImagesHandle

export const startImagesWorker: StartImagesWorker = (name) =>
  common.startThread<Requests, Report>({
    name,
    script: entryFile('images'),
    setup: { name },
  })
