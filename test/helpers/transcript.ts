// SPDX-License-Identifier: Apache-2.0
// Reads a recorded control session: what was sent, and what the reference daemon answered.
// Used by replay.ts. The line types are explained in test/transcripts/README.md.

import { constants } from 'node:fs'

/** Whose behaviour the lines are read for: the recorded daemon, or blockferryd with its deliberate differences. */
export type Side = 'peer' | 'ours'

export type Action =
  /** Start the program; it listens on `$DIR/qmp.sock`, which is then opened as connection `main`. */
  | { readonly kind: 'run'; readonly command: string }
  | { readonly kind: 'sh'; readonly command: string }
  | { readonly kind: 'open'; readonly name: string; readonly path: string }
  | { readonly kind: 'use'; readonly name: string }
  | { readonly kind: 'close'; readonly name: string }
  /** A descriptor of the file, opened with these flags, goes along with what is sent next. */
  | { readonly kind: 'fd'; readonly path: string; readonly flags: number }
  /** Read until a line received since the last send matches. */
  | { readonly kind: 'wait'; readonly pattern: RegExp }
  | { readonly kind: 'idle'; readonly seconds: number }
  | { readonly kind: 'eof'; readonly closed: boolean }
  | { readonly kind: 'exit'; readonly status: number }
  /** One line, answered by one reply. */
  | { readonly kind: 'request'; readonly text: string }
  /** Exactly these bytes; answered or not. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer }

export interface Step {
  /** Line of the file, counted from 1. */
  readonly line: number
  readonly action: Action
  /** Lines received until the next step, in order. */
  readonly expected: readonly string[]
}

export interface Transcript {
  readonly steps: readonly Step[]
  /** Reasons of the deliberate differences, in file order. */
  readonly differences: readonly string[]
}

/** @throws Error naming the line for a line type that is not known. */
export function parseTranscript(text: string, side: Side): Transcript {
  const steps: { line: number; action: Action; expected: string[] }[] = []
  const differences: string[] = []
  const lines = text.split('\n')
  for (const [index, raw] of lines.entries()) {
    if (raw.startsWith('#~ ')) differences.push(raw.slice(3))
    const line = forSide(raw, side)
    if (line === undefined) continue
    if (line.startsWith('<- ')) steps.at(-1)?.expected.push(line.slice(3))
    else {
      const action = parseAction(line, lines, index)
      if (action) steps.push({ line: index + 1, action, expected: [] })
    }
  }
  return { steps, differences }
}

/** `#- LINE` holds for the recorded daemon only, `#+ LINE` for blockferryd only. */
function forSide(line: string, side: Side): string | undefined {
  if (line.startsWith('#- ')) return side === 'peer' ? line.slice(3) : undefined
  if (line.startsWith('#+ ')) return side === 'ours' ? line.slice(3) : undefined
  return line
}

function parseAction(line: string, lines: readonly string[], index: number): Action | undefined {
  if (line.startsWith('-> ')) return { kind: 'request', text: line.slice(3) }
  if (line.startsWith('=> ')) {
    const text: unknown = JSON.parse(line.slice(3))
    return { kind: 'bytes', bytes: Buffer.from(String(text), 'latin1') }
  }
  if (line.startsWith('#! ')) return parseDirective(line.slice(3), lines, index)
  if (line === '' || line.startsWith('#')) return undefined
  throw new Error(`line ${index + 1}: unknown line type: ${line}`)
}

const { O_CREAT, O_RDONLY, O_RDWR, O_WRONLY } = constants
const fdFlags: Readonly<Record<string, number>> = {
  r: O_RDONLY,
  w: O_WRONLY | O_CREAT,
  rw: O_RDWR | O_CREAT,
}

function parseDirective(text: string, lines: readonly string[], index: number): Action {
  const space = text.indexOf(' ')
  const word = space < 0 ? text : text.slice(0, space)
  const rest = space < 0 ? '' : text.slice(space + 1)
  switch (word) {
    case 'run':
    case 'sh':
      return { kind: word, command: rest }
    case 'open': {
      const [name, path] = rest.split(' ')
      return { kind: 'open', name: name ?? '', path: path ?? '$DIR/qmp.sock' }
    }
    case 'use':
    case 'close':
      return { kind: word, name: rest }
    case 'fd': {
      const flags = fdFlags[rest.split(' ', 1)[0] ?? '']
      if (flags === undefined) throw new Error(`line ${index + 1}: unknown mode: ${rest}`)
      return { kind: 'fd', path: rest.slice(rest.indexOf(' ') + 1), flags }
    }
    case 'wait':
      return { kind: 'wait', pattern: new RegExp(rest) }
    case 'idle':
      return { kind: 'idle', seconds: Number(rest) }
    case 'eof':
      return { kind: 'eof', closed: observation(lines, index).includes('closed by the program') }
    case 'exit':
      return { kind: 'exit', status: Number(/status (-?\d+)/.exec(observation(lines, index))?.[1] ?? 0) }
    default:
      throw new Error(`line ${index + 1}: unknown step: ${word}`)
  }
}

/** The player's own remark `# (…)` that follows a step, whatever its side. */
function observation(lines: readonly string[], index: number): string {
  const end = lines.findIndex((line, at) => at > index && /^(#[-+] )?(#!|->|=>) /.test(line))
  const prefix = /^#[-+] /.exec(lines[index] ?? '')?.[0] ?? ''
  const found = lines.slice(index, end < 0 ? undefined : end).find((line) => line.startsWith(`${prefix}# (`))
  return found ?? ''
}
