// SPDX-License-Identifier: Apache-2.0
// `blockferry memory restore`: sends the memory in a file to a QEMU that was started with -incoming.

import { addressOf, placeOf, renames } from './requests.js'
import { type RunOptions, runTransfer } from './transfer.js'

export interface RestoreOptions extends RunOptions {
  readonly offset?: number
  readonly direct: boolean
  readonly listen: boolean
  readonly multifdChannels: number
  readonly zeroPages: boolean
  readonly rename: readonly string[]
  readonly rate?: number
}

export async function restore(file: string, to: string, options: RestoreOptions): Promise<void> {
  const { offset, direct, listen, multifdChannels, zeroPages, rename, rate } = options
  await runTransfer({
    command: 'x-memory-restore',
    args: {
      ...{ source: placeOf(file), target: addressOf(to), offset, listen },
      'direct-io': direct ? undefined : false,
      'multifd-channels': multifdChannels,
      'zero-pages': zeroPages,
      'max-bandwidth': rate,
      ...renames(rename),
    },
    words: `sent memory from '${file}' to ${to}`,
    options,
  })
}
