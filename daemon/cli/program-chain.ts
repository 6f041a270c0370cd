// SPDX-License-Identifier: Apache-2.0
// The part of the command line about the layers of images: names, options and their help. Called by program.ts.

import type { Command } from 'commander'
import { type ChainOptions, type CommitOptions, commit, stream } from './chain.js'
import { embedded, logLevel, size } from './program-values.js'

export function addChain(program: Command): void {
  const down = program
    .command('commit')
    .description('move what an image holds into its backing file')
    .argument('<image>', 'qcow2 file or block device')
    .option('-b, --base <file>', 'layer that gets it, with all above it; the image keeps its content then')
    .option('--keep', 'the image keeps its content', false)
  addCommon(down).action((name: string, options: CommitOptions) => commit(name, options))
  const up = program
    .command('stream')
    .description('copy what shows through an image into it, so that it needs no layers below')
    .argument('<image>', 'qcow2 file or block device')
    .option('-b, --base <file>', 'layer that stays below it')
  addCommon(up).action((name: string, options: ChainOptions) => stream(name, options))
}

function addCommon(command: Command): Command {
  return command
    .option('--speed <size>', 'bytes per second at most', size)
    .option('-q, --quiet', 'no result on stdout', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
}
