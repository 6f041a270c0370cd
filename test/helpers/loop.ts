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
  readonly #device: string | undefined

  private constructor(path: string, image?: string, device?: string) {
    this.path = path
    this.#image = image
    this.#device = device
  }

  /** Makes and mounts a file system of `size` bytes inside `directory`. */
  static make(directory: string, kind: FileSystem, size: number): MountedImage {
    const path = join(directory, kind)
    mkdirSync(path, { recursive: true })
    if (kind === 'tmpfs') {
      run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'none', path)
      return new MountedImage(path)
    }
    const image = join(directory, `${kind}.img`)
    writeFileSync(image, '')
    truncateSync(image, size)
    run(`mkfs.${kind}`, ...(kind === 'ext4' ? ['-q', '-F', '-m', '0'] : ['-q', '-f']), image)
    // Direct, so that the device behaves like a disk and has no page cache of its own below the file system's.
    const device = run('losetup', '--find', '--show', '--direct-io=on', image).trim()
    run('mount', device, path)
    return new MountedImage(path, image, device)
  }

  /** tmpfs only: another size in bytes. */
  resize(size: number): void {
    run('mount', '-o', `remount,size=${size}`, this.path)
  }

  unmount(): void {
    run('umount', this.path)
    if (this.#device !== undefined) run('losetup', '--detach', this.#device)
    if (this.#image !== undefined) rmSync(this.#image)
  }

  [Symbol.dispose](): void {
    spawnSync('umount', ['-l', this.path])
    if (this.#device !== undefined) spawnSync('losetup', ['--detach', this.#device])
    if (this.#image !== undefined) rmSync(this.#image, { force: true })
  }
}

/** @returns what it printed */
function run(program: string, ...args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? stderr}`)
  return stdout
}
