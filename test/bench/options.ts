// SPDX-License-Identifier: Apache-2.0
// Command line of the bench.

import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Copy } from './contenders.js'

export interface BenchOptions {
  readonly names: readonly string[]
  readonly rounds: number
  /** Folder of the images, made for this run inside `--dir`, on the disk that is to be measured. */
  readonly directory: string
  /** Debian folder with the newer QEMU. */
  readonly qemu10: string | undefined
  /** Folder with the sources of oVirt's images server, built. */
  readonly imageio: string | undefined
  /** Size of the image in bytes, where the bench's own is not wanted. */
  readonly size: number | undefined
  /** Seconds of the soak. */
  readonly seconds: number
  paths(name: string): Omit<Copy, 'size'>
}

const USAGE =
  'npm run bench -- [random|scattered|fragmented|stall|commands|memory|qcow2[-seq|-reverse|-rand|-part-rand|-new|-packed|-spread]|nbd|live[-latency|-pivot|-synced|-copies]|scan|saves|restores|shared|arrivals|dirtying|images[-up|-down|-sparse|-zero|-small|-extents]|soak …] [--rounds N] [--dir D] [--qemu10 DIR] [--imageio DIR] [--size N[KMG]] [--seconds N]'

export function readOptions(args: readonly string[]): BenchOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      dir: { type: 'string', default: tmpdir() },
      qemu10: { type: 'string' },
      imageio: { type: 'string' },
      size: { type: 'string' },
      seconds: { type: 'string', default: '600' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(`${USAGE}\n`)
    process.exit(0)
  }
  const directory = mkdtempSync(join(values.dir, 'blockferry-bench-'))
  return {
    names: positionals,
    rounds: Number(values.rounds),
    directory,
    qemu10: values.qemu10,
    imageio: values.imageio,
    size: values.size === undefined ? undefined : parseSize(values.size),
    seconds: Number(values.seconds),
    paths: (name) => ({
      source: join(directory, `${name}.img`),
      target: join(directory, `${name}.copy`),
      directory,
    }),
  }
}

function parseSize(text: string): number {
  const match = /^(\d+)([KMGT]?)$/.exec(text)
  if (!match) throw new Error(`not a size: ${text}`)
  return Number(match[1]) * 1024 ** ' KMGT'.indexOf(match[2] || ' ')
}
