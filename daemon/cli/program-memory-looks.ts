// SPDX-License-Identifier: Apache-2.0
// The memory commands that look at files: names, options and their help. Called by program-memory.ts; the work is elsewhere.

import type { Command } from 'commander'
import { type DiffOptions, diff } from './memory/diff.js'
import { memoryInfo } from './memory/info.js'
import type { InspectOptions } from './memory/inspect.js'
import { type MapOptions, memoryMap } from './memory/map.js'
import { type VerifyOptions, verify } from './memory/verify.js'
import { aioOption, embedded, logLevel, size, usageFails, wholeNumber } from './program-values.js'

const file = 'file of any of the formats; which one is found out'

export function addLooks(memory: Command): void {
  const info = memory.command('info').description('show what a file of memory is and what is in it')
  addCommon(info.argument('<file>', file)).action((name: string, options: InspectOptions) =>
    memoryInfo(name, options),
  )
  const check = usageFails(memory.command('verify'))
    .description('whether a file of memory is sound; exit status 0 good, 2 damaged, 1 an error')
    .argument('<file>', file)
    .option('--digests <file>', 'checksums written by --digests of save or convert (default: FILE.digests)')
  addCommon(check).action((name: string, options: VerifyOptions) => verify(name, options))
  addDiff(memory)
  addMap(memory)
}

function addDiff(memory: Command): void {
  const command = memory
    .command('diff')
    .description('which pages of two files differ; exit status 0 alike, 1 different, 2 an error')
    .argument('<file>', file)
    .argument('<other>', file)
    .option('--other-offset <size>', 'where the image begins in the other', size)
  addCommon(command).action((one: string, other: string, options: DiffOptions) => diff(one, other, options))
}

function addMap(memory: Command): void {
  const command = memory
    .command('map')
    .description('show which pages of a file of memory are not zero')
    .argument('<file>', file)
    .option('--png <file>', 'draw a picture')
    .option('--against <other>', 'show which pages changed since this file')
    .option('--against-offset <size>', 'where the image begins in that', size)
    .option('--cells <count>', 'pieces to tell at most, 1 to 262144 (default: 65536)', wholeNumber)
  addCommon(command).action((name: string, options: MapOptions) => memoryMap(name, options))
}

function addCommon(command: Command): Command {
  return command
    .option('--offset <size>', 'where the image begins in the file', size)
    .option('--no-direct', 'through the page cache')
    .addOption(aioOption())
    .option('--json', 'for programs', false)
    .option('--no-progress', 'no progress, only the result')
    .option('-q, --quiet', 'nothing on stdout, only the exit status', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
}
