// SPDX-License-Identifier: Apache-2.0
// The images server of oVirt, run from a folder with its sources: a peer for the bench. Its client library is used by tests
// from the same folder, which is named by the environment variable OVIRT_IMAGEIO.
// Its extension is built beside its sources: `python3 setup.py build_ext`, and the .so copied to ovirt_imageio/_internal.

import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Running, start } from '../program.js'
import { pace } from '../waiting.js'

/** Why it cannot be used here, or false: the value of a test's `skip`. */
export function imageioAbsent(folder: string | undefined): string | false {
  if (folder === undefined) return 'OVIRT_IMAGEIO names no folder with its sources'
  const { status } = spawnSync('python3', ['-c', 'import ovirt_imageio._internal.ioutil'], {
    env: imageioEnv(folder),
    stdio: 'ignore',
  })
  return status === 0 ? false : `python3 cannot use ${folder}`
}

export function imageioEnv(folder: string): NodeJS.ProcessEnv {
  return { ...process.env, PYTHONPATH: folder }
}

/** It listens, without TLS, on a port of 127.0.0.1. */
export class ImageioPeer implements AsyncDisposable {
  readonly #folder: string
  readonly #running: Running
  readonly port: number

  private constructor(folder: string, running: Running, port: number) {
    this.#folder = folder
    this.#running = running
    this.port = port
  }

  static async start(sources: string, directory: string): Promise<ImageioPeer> {
    const folder = mkdtempSync(join(directory, 'i'))
    mkdirSync(join(folder, 'conf.d'))
    writeFileSync(join(folder, 'conf.d', 'daemon.conf'), configuration(folder))
    const command = ['python3', join(sources, 'ovirt-imageio'), '--conf-dir', folder] as const
    const running = start(command, imageioEnv(sources))
    for (;;) {
      const port = /remote\.service listening on \('[^']*', (\d+)/.exec(running.stderr())?.[1]
      if (port !== undefined && running.stderr().includes('Ready for requests'))
        return new ImageioPeer(folder, running, Number(port))
      if (running.child.exitCode !== null) throw new Error(`ovirt-imageio: ${running.stderr()}`)
      await pace(20)
    }
  }

  get pid(): number {
    return this.#running.pid
  }
  get log(): string {
    return this.#running.stderr()
  }
  /** Socket of its ticket service. */
  get control(): string {
    return join(this.#folder, 'control')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running.stop()
    rmSync(this.#folder, { recursive: true })
  }
}

function configuration(folder: string): string {
  return `[daemon]
poll_interval = 0.1
run_dir = ${folder}
drop_privileges = false
systemd_enable = false
[tls]
enable = false
[remote]
host = 127.0.0.1
port = 0
[local]
enable = false
[control]
transport = unix
socket = ${join(folder, 'control')}
[handlers]
keys = stderr
[logger_root]
level = INFO
handlers = stderr
`
}
