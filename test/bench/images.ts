// SPDX-License-Identifier: Apache-2.0
// The images the bench copies, made from a seed, and the comparison afterwards.

import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { buildFolder } from '../helpers/program.js'

const MiB = 2 ** 20

/** A file of `size` bytes without holes and without zeroes; no two MiB are equal. */
export function makeDense(path: string, size: number): void {
  rmSync(path, { force: true })
  const block = randomBytes(16 * MiB)
  const fd = openSync(path, 'w')
  for (let offset = 0; offset < size; offset += block.length) {
    for (let at = 0; at < block.length; at += MiB) block.writeDoubleLE(offset + at + 1, at)
    writeSync(fd, block, 0, Math.min(block.length, size - offset), offset)
  }
  fsyncSync(fd)
  closeSync(fd)
}

/** A sparse file with `count` pieces of 64 to 256 KiB, one somewhere in each equal part. */
export function makeScattered(path: string, size: number, count: number, seed: number): void {
  rmSync(path, { force: true })
  const random = generator(seed)
  const part = Math.floor(size / count)
  const fd = openSync(path, 'w')
  ftruncateSync(fd, size)
  for (let index = 0; index < count; index++) {
    const length = (1 + Math.floor(random() * 4)) * 64 * 1024
    const room = Math.floor((part - length) / 65536)
    const offset = index * part + Math.floor(random() * room) * 65536
    writeSync(fd, randomBytes(length), 0, length, offset)
  }
  fsyncSync(fd)
  closeSync(fd)
}

/**
 * A file without holes in very many extents: `filler` takes the whole file system, every second 64 KiB of it is given
 * back, and the file is written into the gaps.
 * @returns number of extents, as filefrag counts them
 */
export function makeFragmented(path: string, filler: string, size: number): number {
  const comb = spawnSync(
    'python3',
    [`${buildFolder}../test/bench/comb.py`, filler, String(2 * size + 64 * MiB)],
    {
      encoding: 'utf8',
    },
  )
  if (comb.status !== 0) throw new Error(`comb: ${comb.stderr}`)
  makeDense(path, size)
  rmSync(filler)
  return extents(path)
}

export function extents(path: string): number {
  const { stdout } = spawnSync('filefrag', [path], { encoding: 'utf8' })
  return Number(/: (\d+) extents? found/.exec(stdout ?? '')?.[1] ?? Number.NaN)
}

/** An empty target of the right size, made anew. */
export function makeTarget(path: string, size: number): void {
  rmSync(path, { force: true })
  writeFileSync(path, '')
  truncateSync(path, size)
}

/** An empty qcow2 image, as QEMU's tool makes it by default. */
export function makeQcow2(path: string, size: number, options: readonly string[] = []): void {
  rmSync(path, { force: true })
  runTool('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, path, String(size)])
}

/** @param input  commands for its stdin. @returns what it printed. @throws Error with what it said when it failed */
export function runTool(program: string, args: readonly string[], input?: string): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    ...(input === undefined ? {} : { input }),
  })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}

/** Nothing cached of either image: every contender starts with the same. */
export function dropCaches(): void {
  spawnSync('sync')
  spawnSync('sh', ['-c', 'echo 3 > /proc/sys/vm/drop_caches'], { stdio: 'ignore' })
}

/** Compares content, skipping what is a hole on both sides. @throws Error with the first differing offset. */
export function assertEqual(source: string, target: string): void {
  const script = `${buildFolder}../test/helpers/compare.py`
  const { status, stderr } = spawnSync('python3', [script, source, target], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${target} differs from ${source}: ${stderr}`)
}

/** Bytes of storage in use. */
export function allocated(path: string): number {
  return statSync(path).blocks * 512
}

/** Small seeded generator (mulberry32), 0 <= value < 1. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
