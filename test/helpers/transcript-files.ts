// SPDX-License-Identifier: Apache-2.0
// The recorded sessions in test/transcripts, and what some of them need of the machine.

import { readdirSync, readFileSync } from 'node:fs'
import { fileSystemAbsent } from './loop.js'
import { buildFolder, installed } from './program.js'
import { parseTranscript, type Side, type Transcript } from './transcript.js'

const folder = `${buildFolder}../test/transcripts/`
const END = '.qmp'
const NEEDS_MOUNT = new Set(['34-mirror-target-full-disk'])
const NEEDS_CLIENT = new Set(['30-mirror-write-blocking'])

export function transcriptNames(): string[] {
  const files = readdirSync(folder).filter((name) => name.endsWith(END))
  return files.map((name) => name.slice(0, -END.length)).sort()
}

export function readTranscript(name: string, side: Side): Transcript {
  return parseTranscript(readFileSync(`${folder}${name}${END}`, 'utf8'), side)
}

/** The program it was recorded from. */
export function recordedFrom(name: string): string {
  const [run] = readTranscript(name, 'peer').steps.flatMap(({ action }) =>
    action.kind === 'run' ? [action.command] : [],
  )
  return run?.split(' ', 1)[0] ?? ''
}

/** Why it cannot be played on this machine, or false: the value of a test's `skip`. */
export function notHere(name: string): string | false {
  if (NEEDS_CLIENT.has(name) && !installed('qemu-io')) return 'no qemu-io'
  if (NEEDS_MOUNT.has(name)) return fileSystemAbsent('tmpfs')
  return runs(name, 'qemu-nbd') && !installed('qemu-nbd') ? 'no qemu-nbd' : false
}

function runs(name: string, program: string): boolean {
  return readFileSync(`${folder}${name}${END}`, 'utf8').includes(`#! sh ${program} `)
}
