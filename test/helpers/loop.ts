// SPDX-License-Identifier: Apache-2.0
// File systems of a test's own, in a file that is mounted through a loop device.

import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export type FileSystem = 'ext4' | 'xfs' | 'btrfs' | 'tmpfs'

/** Why it cannot be used here, or false: the value of a test's `skip`. */
export function fileSystemAbsent(kind: FileSystem): string | false {
  if (process.getuid?.() !== 0) return 'needs root to mount'
  if (spawnSync('unshare', ['-m', 'true']).status !== 0) return 'may not mount'
  if (kind === 'tmpfs') return false
  if (spawnSync('losetup', ['-f'], { stdio: 'ignore' }).status !== 0) return 'no loop devices'
  return spawnSync(`mkfs.${kind}`, ['-V'], { stdio: 'ignore' }).error ? `no mkfs.${kind}` : false
}

export class MountedImage {
  readonly path: string
  readonly #image: string | undefined

  private constructor(path: string, image: string | undefined) {
    this.path = path
    this.#image = image
  }

  /** Makes and mounts a file system of `size` bytes inside `directory`. */
  static make(directory: string, kind: FileSystem, size: number): MountedImage {
    const path = join(directory, kind)
    mkdirSync(path, { recursive: true })
    if (kind === 'tmpfs') {
      run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'none', path)
      return new MountedImage(path, undefined)
    }
    const image = join(directory, `${kind}.img`)
    writeFileSync(image, '')
    truncateSync(image, size)
    run(`mkfs.${kind}`, ...(kind === 'ext4' ? ['-q', '-F', '-m', '0'] : ['-q', '-f']), image)
    run('mount', '-o', 'loop', image, path)
    return new MountedImage(path, image)
  }

  /** tmpfs only: another size in bytes. */
  resize(size: number): void {
    run('mount', '-o', `remount,size=${size}`, this.path)
  }

  /** The loop device goes with its mount. */
  unmount(): void {
    run('umount', this.path)
    if (this.#image !== undefined) rmSync(this.#image)
  }

  [Symbol.dispose](): void {
    spawnSync('umount', ['-l', this.path])
    if (this.#image !== undefined) rmSync(this.#image, { force: true })
  }
}

function run(program: string, ...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? stderr}`)
}
