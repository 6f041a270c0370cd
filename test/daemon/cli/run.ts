// SPDX-License-Identifier: Apache-2.0
// Runs the built command as its users do, and collects what it says.

import { type ChildProcess, spawn } from 'node:child_process'
import { entryFile } from '../../../daemon/common/entries.js'

export const command = entryFile('blockferry')

export interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  /** Working directory. */
  readonly cwd?: string
  /** Gets the running process, to send it signals. */
  readonly onStart?: (child: ChildProcess) => void
}

export async function run(args: readonly string[], options: RunOptions = {}): Promise<Run> {
  const { env, cwd } = options
  const child = spawn(process.execPath, [command, ...args], {
    env: { ...process.env, ...env },
    ...(cwd !== undefined && { cwd }),
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  child.stdin.end(options.input ?? '')
  options.onStart?.(child)
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { status, stdout, stderr }
}
