// SPDX-License-Identifier: Apache-2.0
// How much the daemon's log tells, from least to most. Apart from log.ts, so that who reads options does not load it.

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug', 'trace'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export function isLogLevel(text: string): text is LogLevel {
  return (LOG_LEVELS as readonly string[]).includes(text)
}
