// SPDX-License-Identifier: Apache-2.0
// The program under test and its peers: how each is started. Used by the replay, the live tests and the bench.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { entryFile } from '../../daemon/common/entries.js'
import { inFolder } from './debian-folder.js'
import { within } from './waiting.js'

/** Root of the built files, where this file lies in test/helpers. */
export const buildFolder = fileURLToPath(new URL('../..', import.meta.url))

/** How to call a daemon that takes the storage daemon's options: program and leading arguments. */
export interface Program {
  readonly name: string
  command(directory: string): readonly [string, ...string[]]
}

export const blockferryd: Program = {
  name: 'blockferryd',
  command: () => [process.execPath, entryFile('blockferryd')],
}

export function storageDaemon(root?: string): Program {
  return recordedProgram('qemu-storage-daemon', root)
}

/** A program of the machine, or of a Debian folder, where `directory` has the same path inside. */
export function recordedProgram(name: string, root?: string): Program {
  if (root === undefined) return { name, command: () => [name] }
  return { name: `${name} in ${root}`, command: (directory) => inFolder(root, directory, name) }
}

export interface Running {
  readonly child: ChildProcess
  readonly pid: number
  /** Text written to stderr so far. */
  stderr(): string
  /** Exit status, or minus the signal's number. Rejects when it does not end in time. */
  ended(timeoutMs: number): Promise<number>
  /** SIGTERM, and SIGKILL when that did not help within the time. */
  stop(timeoutMs?: number): Promise<number>
}

const SIGNALS: Readonly<Record<string, number>> = {
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
  SIGINT: 2,
}

export function start(
  command: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv = process.env,
): Running {
  const [program, ...args] = command
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env })
  // A test that is ended from outside takes its programs with it.
  const orphaned = (): void => void child.kill('SIGKILL')
  process.once('exit', orphaned)
  child.once('exit', () => process.removeListener('exit', orphaned))
  let text = ''
  child.stderr?.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const exit = new Promise<number>((resolve) => {
    child.once('error', () => resolve(127))
    child.once('exit', (code, signal) => resolve(code ?? -(SIGNALS[signal ?? ''] ?? 1)))
  })
  return {
    child,
    pid: child.pid ?? -1,
    stderr: () => text,
    ended: (timeoutMs) => within(exit, timeoutMs, `end of ${program}`),
    stop: async (timeoutMs = 10_000) => {
      child.kill('SIGTERM')
      try {
        return await within(exit, timeoutMs, `end of ${program}`)
      } catch {
        child.kill('SIGKILL')
        return await exit
      }
    },
  }
}

/** Whether a program can be started at all (`name --version`). */
export function installed(name: string, ...args: string[]): boolean {
  return spawnSync(name, args.length > 0 ? args : ['--version'], { stdio: 'ignore' }).error === undefined
}
