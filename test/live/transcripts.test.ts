// SPDX-License-Identifier: Apache-2.0
// The recorded sessions of the reference daemon, played against blockferryd and, where it can be had, against the
// recorded program itself. Deliberate differences are marked inside the transcripts.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { blockferryd, buildFolder, storageDaemon } from '../helpers/program.js'
import { replay } from '../helpers/replay.js'
import { parseTranscript } from '../helpers/transcript.js'

const folder = `${buildFolder}../test/transcripts/`

/** Sessions of commands that do not exist here yet, with what they wait for. A session that passes must leave. */
const WAITING: Readonly<Record<string, string>> = {
  '11-blockdev-add-qcow2': 'qcow2',
  '31-mirror-pivot': 'NBD exports',
  '41-drive-mirror-qcow2': 'qcow2',
  '50-blockdev-backup': 'backup jobs',
  '51-bitmaps-incremental': 'bitmaps',
  '52-block-commit': 'commit jobs',
  '53-block-stream': 'stream jobs',
  '54-transaction': 'transactions',
  '60-nbd-export': 'NBD exports',
  '61-nbd-client-connected': 'NBD exports',
  '62-mirror-to-nbd': 'NBD client',
  '64-frozen-by-silent-server': 'NBD client',
  '65-frozen-by-stalled-target': 'NBD client',
  '66-cancel-with-stalled-target': 'NBD client',
}

/** These stall the recorded program for many seconds or depend on its speed: not played against it. */
const OURS_ONLY = new Set(Object.keys(WAITING))
const NEEDS_MOUNT = new Set(['34-mirror-target-full-disk'])

const names = readdirSync(folder)
  .filter((name) => name.endsWith('.qmp'))
  .map((name) => name.slice(0, -'.qmp'.length))
  .sort()
const mountRefused = spawnSync('unshare', ['-m', 'true']).status === 0 ? false : 'may not mount'

t.test('blockferryd answers as recorded', async (t) => {
  for (const name of names) {
    const skip = NEEDS_MOUNT.has(name) ? mountRefused : false
    const text = readFileSync(`${folder}${name}.qmp`, 'utf8')
    const waiting = WAITING[name]
    if (waiting === undefined) {
      await t.test(`${name} is answered as recorded`, { skip }, async () => {
        await replay(parseTranscript(text, 'ours'), { program: blockferryd })
      })
    } else {
      await t.test(`${name} still waits for ${waiting}`, async (t) => {
        await t.rejects(replay(parseTranscript(text, 'ours'), { program: blockferryd, timeoutMs: 3000 }))
      })
    }
  }
})

t.test('the player accepts the recorded program', async (t) => {
  const program = recordedProgram()
  if (!program) {
    t.comment('no qemu-storage-daemon 10 (QEMU10_ROOT names a Debian folder that has it)')
    return
  }
  for (const name of names.filter((name) => !OURS_ONLY.has(name))) {
    const skip = NEEDS_MOUNT.has(name) ? mountRefused : false
    const text = readFileSync(`${folder}${name}.qmp`, 'utf8')
    await t.test(`${name} is what the program says`, { skip }, async () => {
      await replay(parseTranscript(text, 'peer'), { program })
    })
  }
})

function recordedProgram(): ReturnType<typeof storageDaemon> | undefined {
  const root = process.env.QEMU10_ROOT
  if (root !== undefined && existsSync(`${root}/usr/bin/qemu-storage-daemon`)) return storageDaemon(root)
  const version = spawnSync('qemu-storage-daemon', ['--version'], { encoding: 'utf8' }).stdout
  return version?.includes('version 10.') ? storageDaemon() : undefined
}
