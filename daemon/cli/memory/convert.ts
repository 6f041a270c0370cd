// SPDX-License-Identifier: Apache-2.0
// `blockferry memory convert`: writes the memory in one file to another in another format.

import { placeOf, type TargetOptions, targetArguments } from './requests.js'
import { type RunOptions, runTransfer } from './transfer.js'

export interface ConvertOptions extends TargetOptions, RunOptions {
  readonly to: string
  /** Where the image begins in the source, bytes. */
  readonly sourceOffset?: number
}

export async function convertMemory(source: string, target: string, options: ConvertOptions): Promise<void> {
  await runTransfer({
    command: 'x-memory-convert',
    args: {
      ...{ source: placeOf(source), target: placeOf(target), format: options.to },
      'source-offset': options.sourceOffset,
      ...(await targetArguments(options)),
    },
    words: `converted memory in '${source}' to '${target}'`,
    options,
  })
}
