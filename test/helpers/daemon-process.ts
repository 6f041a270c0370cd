// SPDX-License-Identifier: Apache-2.0
// blockferryd as a process of its own, for tests of what only a process has: options, signals, files, exit status.

import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import { existsSync, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import { entryFile } from '../../daemon/common/entries.js'

export const PROGRAM = entryFile('blockferryd')

export interface Ended {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface DaemonProcess {
  readonly child: ChildProcess
  /** Resolves when the process has ended and closed its output. */
  readonly ended: Promise<Ended>
}

export interface SpawnOptions {
  readonly env?: NodeJS.ProcessEnv
  readonly stdio?: StdioOptions
}

export function startDaemon(args: readonly string[], options: SpawnOptions = {}): DaemonProcess {
  const child = spawn(process.execPath, [PROGRAM, ...args], {
    stdio: options.stdio ?? ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
  })
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (bytes: Buffer) => {
    stdout += bytes.toString()
  })
  child.stderr?.on('data', (bytes: Buffer) => {
    stderr += bytes.toString()
  })
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }))
  })
  return { child, ended }
}

/** Runs it to its end. */
export function runDaemon(args: readonly string[], options: SpawnOptions = {}): Promise<Ended> {
  return startDaemon(args, options).ended
}

/** Resolves when `path` exists. */
export function appears(path: string): Promise<void> {
  return new Promise((resolve) => {
    const watcher = watch(dirname(path), (_event, name) => {
      if (name === basename(path)) look()
    })
    const look = () => {
      if (!existsSync(path)) return
      watcher.close()
      resolve()
    }
    look()
  })
}
