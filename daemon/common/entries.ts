// SPDX-License-Identifier: Apache-2.0
// The files that Node runs: programs and worker threads. Used by whoever starts one, and by test/tools/bundle.ts, which makes
// them. They are found by package.json's "imports", since a module does not know whether it runs by itself or in a bundle.

import { createRequire } from 'node:module'

/** What each is made from, below .build. */
export const ENTRIES = {
  blockferryd: 'daemon/main.js',
  blockferry: 'daemon/cli/main.js',
  iothread: 'daemon/iothread/entry.js',
  memory: 'daemon/memory/entry.js',
  nbd: 'daemon/nbd/entry.js',
  images: 'daemon/images/entry.js',
  tls: 'daemon/tls/entry.js',
} as const

const { resolve } = createRequire(import.meta.url)

/** The path of the file to run. */
export function entryFile(name: keyof typeof ENTRIES): string {
  return resolve(`#program/${name}`)
}
