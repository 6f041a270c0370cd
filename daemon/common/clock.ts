// SPDX-License-Identifier: Apache-2.0
// A clock that all threads of the process share and that nobody sets: `performance.now()` counts from the start of its thread.

export function monotonicSeconds(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds + nanoseconds / 1e9
}
