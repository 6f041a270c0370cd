// SPDX-License-Identifier: Apache-2.0
// Folders and images for live tests.

import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildFolder } from './program.js'

export const MiB = 2 ** 20

/** Short enough for socket paths; removed at the end of the scope. */
export class Scratch {
  readonly path = mkdtempSync(join(tmpdir(), 'bf-'))

  file(name: string): string {
    return join(this.path, name)
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true })
  }
}

/** A file without zeroes; its MiB differ. */
export function fill(path: string, size: number, seed = 1): void {
  const fd = openSync(path, 'w')
  for (let offset = 0; offset < size; offset += MiB) {
    const block = Buffer.alloc(Math.min(MiB, size - offset), 1 + ((seed + offset / MiB) % 255))
    writeSync(fd, block, 0, block.length, offset)
  }
  closeSync(fd)
}

/** A hole. */
export function empty(path: string, size: number): void {
  writeFileSync(path, '')
  truncateSync(path, size)
}

/** @returns what differs, or undefined. */
export function difference(one: string, other: string): string | undefined {
  const script = `${buildFolder}../test/helpers/compare.py`
  const { status, stderr, error } = spawnSync('python3', [script, one, other], { encoding: 'utf8' })
  return status === 0 ? undefined : (error?.message ?? stderr)
}

/** A raw node over a file, as managers add it. */
export function rawNode(name: string, filename: string, direct = false): object {
  return { driver: 'raw', 'node-name': name, file: { driver: 'file', filename, cache: { direct } } }
}
