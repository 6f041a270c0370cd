#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// blockferryd: reads its options, begins the threads of the first disks, loads and starts the daemon meanwhile, and turns every
// way of failing into one line and an exit status. What it imports is little, so that the threads begin soon.

import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { entryFile } from './common/entries.js'
import { PRODUCT_VERSION } from './common/version.js'
import { isDetached, startDetached } from './daemonize.js'
import { begunAhead, workerStarter } from './iothread/handle.js'
import { type Given, HELP, merge, type Options, parseArguments, parseConfig } from './options.js'
import { complain, StartError, Status } from './start-error.js'
import { PROTOCOL_VERSION } from './version.js'

/**
 * How often code runs before V8 optimizes it, in bytes of bytecode: four times its default, since code of a thread that
 * lives for one copy is optimized in vain. Measured on 4096 writes of 1 MiB into 16 scattered clusters each, JavaScript for
 * one, and on a copy of 4 GiB of raw data, CPU: at 67 584 (the default) 23 µs and 1.30 s, at 300 000 34 µs and 1.17 s, at
 * 1 000 000 58 µs and 1.11 s.
 */
const INTERRUPT_BUDGET = 300_000

async function main(): Promise<void> {
  const line = parseArguments(process.argv.slice(2))
  if (line.kind === 'help') process.stdout.write(HELP)
  else if (line.kind === 'version') process.stdout.write(versionText())
  else {
    const options = merge(readConfig(line.given.settings.config), line.given)
    if (options.settings.daemonize && !isDetached(process.env))
      process.exit(await startDetached([entryFile('blockferryd'), ...process.argv.slice(2)]))
    else await run(options, line.given)
  }
}

function readConfig(file: string | undefined): Given | undefined {
  if (file === undefined) return undefined
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new StartError(`cannot read '${file}': ${(error as Error).message}`, Status.config, {
      cause: error,
    })
  }
  return parseConfig(text, file)
}

async function run(options: Options, line: Given): Promise<void> {
  setFlagsFromString(`--interrupt-budget=${INTERRUPT_BUDGET}`)
  const { aio, expectDisks } = options.settings
  const startWorker = begunAhead(workerStarter({ aio }), expectDisks)
  const { runDaemon } = await import('./run.js')
  await runDaemon(options, line, startWorker)
}

function versionText(): string {
  const { major, minor, micro } = PROTOCOL_VERSION.qemu
  return `blockferryd version ${PRODUCT_VERSION} (QMP of QEMU ${major}.${minor}.${micro})\n`
}

main().catch((error: unknown) => {
  // Not by itself: threads may have begun.
  process.exit(complain(error))
})
