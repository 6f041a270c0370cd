// SPDX-License-Identifier: Apache-2.0
// The player of recorded sessions is right: the program that was recorded passes, and a wrong answer does not.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t from 'tap'
import { blockferryd, type Program, recordedProgram } from '../helpers/program.js'
import { differences, replay } from '../helpers/replay.js'
import { parseTranscript } from '../helpers/transcript.js'
import { notHere, readTranscript, recordedFrom, transcriptNames } from '../helpers/transcript-files.js'

t.setTimeout(600_000)

/** They stall the recorded program for many seconds, or depend on its speed. */
const NOT_STEADY = new Set([
  '61-nbd-client-connected',
  '62-mirror-to-nbd',
  '64-frozen-by-silent-server',
  '65-frozen-by-stalled-target',
  '66-cancel-with-stalled-target',
])

for (const name of transcriptNames().filter((name) => !NOT_STEADY.has(name))) {
  const from = recordedFrom(name)
  const program = recorded(from)
  const absent = program ? false : `no ${from} 10 (QEMU10_ROOT may name a Debian folder with one)`
  t.test(`${name} is what the recorded program says`, { skip: absent || notHere(name) }, async () => {
    if (program) await replay(readTranscript(name, 'peer'), { program })
  })
}

const START = [
  '#! run blockferryd --chardev socket,id=c,path=$DIR/qmp.sock,server=on,wait=off --monitor chardev=c',
  '<- {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 0}, "package": ""}, "capabilities": ["oob"]}}',
  '-> {"execute": "qmp_capabilities"}',
  '<- {"return": {}}',
]
const CREATE =
  '{"execute": "blockdev-create", "arguments": {"job-id": "j", "options": {"driver": "file", "filename": "$DIR/x", "size": 0}}}'
const state = (status: string): string =>
  `<- {"timestamp": {"seconds": 0, "microseconds": 0}, "event": "JOB_STATUS_CHANGE", "data": {"status": "${status}", "id": "j"}}`
const RIGHT = [
  state('created'),
  state('running'),
  '<- {"return": {}}',
  ...['waiting', 'pending', 'concluded'].map(state),
]

const WRONG: readonly { readonly name: string; readonly lines: readonly string[] }[] = [
  {
    name: 'another text',
    lines: ['-> {"execute": "x"}', '<- {"error": {"class": "CommandNotFound", "desc": "No x"}}'],
  },
  { name: 'another id', lines: ['-> {"execute": "query-jobs", "id": 1}', '<- {"return": [], "id": 1.0}'] },
  { name: 'a reply too few', lines: ['-> {"execute": "query-jobs"}'] },
  {
    name: 'a reply too many',
    lines: ['-> {"execute": "query-jobs"}', '<- {"return": []}', '<- {"return": []}'],
  },
  { name: 'an event too few', lines: [`-> ${CREATE}`, ...RIGHT.slice(0, -2), state('concluded')] },
  {
    name: 'events in another order',
    lines: [`-> ${CREATE}`, ...RIGHT.slice(0, 3), ...RIGHT.slice(3).reverse()],
  },
]

t.test('what the program says is accepted', async () => {
  await replay(parseTranscript([...START, `-> ${CREATE}`, ...RIGHT].join('\n'), 'ours'), {
    program: blockferryd,
  })
})

for (const { name, lines } of WRONG) {
  t.test(`${name} in a recording is found`, async (t) => {
    const wrong = parseTranscript([...START, ...lines].join('\n'), 'ours')
    t.not(await differences(wrong, { program: blockferryd, timeoutMs: 2000 }), undefined)
  })
}

function recorded(name: string): Program | undefined {
  const root = process.env.QEMU10_ROOT
  if (root !== undefined && existsSync(`${root}/usr/bin/${name}`)) return recordedProgram(name, root)
  const version = spawnSync(name, ['--version'], { encoding: 'utf8' }).stdout
  return version?.includes('version 10.') ? recordedProgram(name) : undefined
}
