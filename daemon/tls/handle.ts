// SPDX-License-Identifier: Apache-2.0
// The thread that encrypts connections as a disk's worker sees it. Started by NBD nodes with TLS.

import { entryFile } from '../common/entries.js'
import * as common from '../common/worker-handle.js'
import type { ClientCredentials, Report, Requests } from './messages.js'

export type TlsHandle = common.WorkerHandle<Requests, Report>

export function startTlsWorker(name: string, credentials: ClientCredentials): TlsHandle {
  const script = entryFile('tls')
  return common.startThread<Requests, Report>({ name, script, setup: { credentials } })
}
