// SPDX-License-Identifier: Apache-2.0
// Images that qemu-img makes, and what it says of them: the oracle of the tests in this folder.

import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseHeader } from '../../../protocol/qcow2/header.js'

/** Why these tests cannot run here, or false. */
export const noQemuImg = spawnSync('qemu-img', ['--version']).error === undefined ? false : 'no qemu-img'

export const KIB = 1024
export const MIB = 1024 * KIB

interface Folder {
  testdir(): string
}

/** An image of a test's own folder. */
export class Image {
  readonly path: string
  readonly #folder: string

  /**
   * @param options  as `qemu-img create -o` takes them
   * @param more     further arguments of `qemu-img create`
   */
  constructor(t: Folder, options: readonly string[] = [], more: readonly string[] = []) {
    this.#folder = t.testdir()
    this.path = join(this.#folder, 'disk.qcow2')
    const how = options.flatMap((option) => ['-o', option])
    this.run('qemu-img', 'create', '-q', '-f', 'qcow2', ...how, ...more, 'disk.qcow2', '8M')
  }

  run(program: string, ...args: readonly string[]): string {
    return execFileSync(program, args, {
      cwd: this.#folder,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  bytes(): Buffer {
    return readFileSync(this.path)
  }

  header(): ReturnType<typeof parseHeader> {
    return parseHeader(this.bytes())
  }

  /** What `qemu-img info` says, as far as these tests ask. */
  info(): ImageInfo {
    return JSON.parse(this.run('qemu-img', 'info', '--output=json', 'disk.qcow2')) as ImageInfo
  }
}

export interface ImageInfo {
  readonly snapshots?: readonly {
    readonly id: string
    readonly name: string
    readonly 'date-sec': number
    readonly 'date-nsec': number
    readonly 'vm-state-size': number
  }[]
  readonly 'format-specific': {
    readonly data: {
      readonly bitmaps?: readonly {
        readonly name: string
        readonly granularity: number
        readonly flags: string[]
      }[]
    }
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
