// SPDX-License-Identifier: Apache-2.0
// The daemon's log: pino's lines into a writer that never makes the main thread wait. Made by the composition root;
// everybody else gets a Logger or a child of it.

import { type Logger, pino, stdTimeFunctions } from 'pino'
import type { LogLevel } from './log-levels.js'

/** Where lines go: bounded, never blocking; what does not fit is dropped and counted. */
export interface LogWriter {
  /** Whether there was room. */
  write(text: string): boolean
  /** Lines dropped so far. */
  dropped(): number
  /** Waits at most `ms` milliseconds for what is queued; for the end of the process only. */
  flushSync(ms: number): unknown
}

export function createLog(writer: LogWriter, level: LogLevel): Logger {
  const options = { level, base: null, timestamp: stdTimeFunctions.isoTime }
  const direct = pino(options, { write: (text) => void writer.write(text) })
  let told = 0
  return pino(options, {
    write(text) {
      const lost = writer.dropped()
      if (writer.write(text) && lost > told) {
        direct.warn({ lost: lost - told }, 'log lines were lost before this one')
        told = lost
      }
    },
  })
}
