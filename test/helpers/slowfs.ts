// SPDX-License-Identifier: Apache-2.0
// A folder whose file-system calls take as long, or fail, as a test wants (slowfs.c over FUSE).

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { buildFolder } from './program.js'
import { pace } from './waiting.js'

export type SlowOp =
  | 'open'
  | 'read'
  | 'write'
  | 'fsync'
  | 'lseek'
  | 'fallocate'
  | 'truncate'
  | 'getattr'
  | 'flush'
  | 'release'
  | 'rename'
  | 'fsyncdir'

export interface Rule {
  readonly op: SlowOp
  readonly delayMs: number
  readonly error?: 'EIO' | 'ENOSPC' | 'EDQUOT' | 'ESTALE' | 'EOPNOTSUPP' | 'EINTR'
  /** So many calls of this kind pass untouched first. */
  readonly after?: number
}

const source = `${buildFolder}../test/helpers/slowfs.c`
const binary = `${buildFolder}slowfs`

/** Why it cannot be used here, or false: the value of a test's `skip`. */
export function slowfsAbsent(): string | false {
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK)
  } catch {
    return 'no /dev/fuse'
  }
  if (spawnSync('fusermount3', ['-V']).error) return 'no fusermount3'
  return build()
}

/** Compiles once into the build folder. */
function build(): string | false {
  if (existsSync(binary) && statSync(binary).mtimeMs >= statSync(source).mtimeMs) return false
  const flags = spawnSync('pkg-config', ['--cflags', '--libs', 'fuse3'], { encoding: 'utf8' })
  if (flags.error || flags.status !== 0) return 'no fuse3 headers'
  const partial = `${binary}.${process.pid}`
  const args = ['-O2', '-o', partial, source, ...flags.stdout.trim().split(/\s+/)]
  const { status, error } = spawnSync('cc', args, { stdio: 'ignore' })
  if (error || status !== 0) return 'slowfs does not compile'
  spawnSync('mv', [partial, binary])
  return false
}

export class SlowFs {
  /** The slow side: files are used through here. */
  readonly mount: string
  /** The fast side: the same files without delays, for making and comparing images. */
  readonly files: string
  readonly #child: ChildProcess
  #unmounted: Promise<void> | undefined

  private constructor(files: string, mount: string, child: ChildProcess) {
    this.files = files
    this.mount = mount
    this.#child = child
  }

  /** Mounted, without rules. Both folders are made inside `directory`. */
  static async mount(directory: string): Promise<SlowFs> {
    const files = join(directory, 'files')
    const mount = join(directory, 'slow')
    for (const folder of [files, mount]) mkdirSync(folder, { recursive: true })
    writeFileSync(join(files, '.slowfs'), '')
    const child = spawn(binary, ['-f', files, mount], { stdio: 'ignore' })
    for (let tries = 0; !isMounted(mount); tries++) {
      if (tries > 200 || child.exitCode !== null) throw new Error(`slowfs did not mount at ${mount}`)
      await pace(10)
    }
    return new SlowFs(files, mount, child)
  }

  /** In force from the next call on; counters of `after` go on. */
  rules(...rules: readonly Rule[]): void {
    const lines = rules.map((rule) => {
      const fields = [
        rule.op,
        rule.delayMs,
        rule.error ?? (rule.after === undefined ? '' : '-'),
        rule.after ?? '',
      ]
      return fields.join(' ').trim()
    })
    writeFileSync(join(this.files, '.slowfs'), `${lines.join('\n')}\n`)
  }

  /** Unmounts at once; calls that are under way fail. Many calls are one. */
  unmount(): Promise<void> {
    this.#unmounted ??= this.#unmount()
    return this.#unmounted
  }

  async #unmount(): Promise<void> {
    this.rules()
    spawnSync('fusermount3', ['-u', '-z', this.mount])
    if (this.#child.exitCode === null) {
      const ended = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()))
      this.#child.kill('SIGKILL')
      await ended
    }
    rmSync(this.mount, { recursive: true, force: true })
  }
}

function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[4] === path)
}
