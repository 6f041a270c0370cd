// SPDX-License-Identifier: Apache-2.0
// --daemonize: the process that was called starts the daemon as a child in a session of its own, passes on what it says
// on standard error while it starts, and returns when it is ready or has failed. Called by main.ts before anything else, and by run.ts when it is ready.
// The child's standard output is the way it says that it is ready.

import { spawn } from 'node:child_process'
import { closeSync, openSync, writeSync } from 'node:fs'
import { Status } from './start-error.js'

const MARK = 'BLOCKFERRYD_DETACHED'
const READY = 'ready\n'

/** Whether this process is the child. */
export function isDetached(env: NodeJS.ProcessEnv): boolean {
  return env[MARK] === '1'
}

/**
 * Starts the child and waits for its word.
 * @param program  file of the program and its arguments
 * @returns exit status for the caller: 0 when the daemon is ready
 */
export function startDetached(program: readonly string[]): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [...process.execArgv, ...program], {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, [MARK]: '1' },
    })
    let said = ''
    child.stderr.on('data', (bytes: Buffer) => process.stderr.write(bytes))
    child.stdout.on('data', (bytes: Buffer) => {
      said += bytes.toString()
      if (said === READY) resolve(0)
    })
    child.on('error', (error) => {
      process.stderr.write(`blockferryd: cannot start in the background: ${error.message}\n`)
      resolve(Status.failed)
    })
    child.on('close', (status) => resolve(status ?? Status.failed))
  })
}

/** In the child, when everything is ready: tells the caller. */
export function reportReady(): void {
  try {
    writeSync(1, READY)
  } catch {
    // The caller was killed in the meantime; nobody waits for the word.
  }
  // What is written to standard output later goes nowhere. The lowest free number is the one just closed.
  closeSync(1)
  openSync('/dev/null', 'w')
}
