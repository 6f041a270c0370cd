// SPDX-License-Identifier: Apache-2.0
// Recorded images in the folder of a test, converted and damaged.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { unpack } from '../../helpers/migration/fixtures.js'
import { type FileSink, fileSink, fileSource, spec, Worker } from './worker.js'

export const PAGE = 4096
/** A page of guest memory that is there once and has random bytes. */
export const RANDOM_PAGE = 0x20_0000 + 5 * PAGE

const folders = new WeakMap<Test, string>()

/** In the folder of the test. */
export function placed(t: Test, name: string): string {
  const folder = folders.get(t) ?? t.testdir({})
  folders.set(t, folder)
  const path = join(folder, name)
  writeFileSync(path, unpack(name))
  return path
}

export async function convert(
  t: Test,
  from: string,
  to: string,
  format: FileSink['format'],
  more: Partial<FileSink> = {},
): Promise<void> {
  t.equal(await new Worker(t).run(spec(fileSource(from), fileSink(to, format, more))), undefined)
}

export function flip(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes[at] = (bytes[at] ?? 0) ^ 0x10
  writeFileSync(path, bytes)
}
