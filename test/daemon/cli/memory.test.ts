// SPDX-License-Identifier: Apache-2.0
// `blockferry memory save --qmp` with a QEMU that says what a test wants: what went wrong there is what is told.

import { join } from 'node:path'
import t from 'tap'
import type { JsonObject } from '../../../protocol/json-value.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { run } from './run.js'
import { type Script, ScriptedServer } from './scripted-server.js'

const RUNNING: Readonly<Record<string, unknown>> = {
  'query-status': { running: true, singlestep: false, status: 'running' },
  'query-migrate': { status: 'none' },
  'query-migrate-capabilities': [{ state: false, capability: 'multifd' }],
  'query-migrate-parameters': { 'max-bandwidth': 1, 'downtime-limit': 300 },
  'query-memdev': [],
}

/** A QEMU with a guest that runs, and refuses one command. */
function refusing(command: string, desc: string): Script {
  return ({ execute, id }: JsonObject, say) => {
    if (execute === command) say({ error: { class: 'GenericError', desc }, id })
    else say({ return: RUNNING[String(execute)] ?? {}, id })
  }
}

t.test('a QEMU that does not migrate is quoted, and its guest goes on', async (t) => {
  const folder = shortFolder(t)
  const qmp = join(folder, 'qmp.sock')
  const server = await ScriptedServer.listen(qmp, refusing('migrate', 'no such place'))
  t.teardown(() => server.close())
  const { status, stdout, stderr } = await run(['memory', 'save', '--qmp', qmp, join(folder, 'saved')])
  t.same({ status, stdout, stderr }, { status: 1, stdout: '', stderr: 'blockferry: QEMU: no such place\n' })
  const last = server.requests.map(({ execute }) => execute).slice(-3)
  t.same(last, ['migrate-set-parameters', 'migrate-set-capabilities', 'cont'])
})
