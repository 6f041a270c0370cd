// SPDX-License-Identifier: Apache-2.0
// The recorded sessions of the reference daemon, played against blockferryd. Deliberate differences are marked inside
// the transcripts. That the player itself is right shows recorded-program.test.ts.

import t from 'tap'
import { blockferryd, installed } from '../helpers/program.js'
import { differences, replay } from '../helpers/replay.js'
import { notHere, readTranscript, transcriptNames } from '../helpers/transcript-files.js'

t.setTimeout(600_000)

/** Sessions of commands that do not exist here yet, with what they wait for. A session that passes must leave. */
const WAITING: Readonly<Record<string, string>> = {}

for (const name of transcriptNames()) {
  const waiting = WAITING[name]
  if (waiting === undefined) {
    t.test(`${name} is answered as recorded`, { skip: notHere(name) }, async () => {
      await replay(readTranscript(name, 'ours'), { program: blockferryd })
    })
  } else {
    const skip = installed('qemu-img') && installed('qemu-nbd') ? false : 'no qemu-img or qemu-nbd'
    t.test(`${name} still waits for ${waiting}`, { skip }, async (t) => {
      const found = await differences(readTranscript(name, 'ours'), { program: blockferryd, timeoutMs: 3000 })
      t.not(found, undefined, 'it passes: take it out of the list')
    })
  }
}

t.test('every session that waits exists', async (t) => {
  t.strictSame(
    Object.keys(WAITING).filter((name) => !transcriptNames().includes(name)),
    [],
  )
})
