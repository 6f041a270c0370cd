#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// blockferryd: reads its options, starts the daemon, and turns every way of failing into one line and an exit status.

import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { setFlagsFromString } from 'node:v8'
import type { Logger } from 'pino'
import { LogWriter } from '../native/log-writer.js'
import { exitNow, scheduleFor, sdNotify } from '../native/process.js'
import { entryFile } from './common/entries.js'
import { PRODUCT_VERSION } from './common/version.js'
import { Daemon } from './daemon.js'
import { isDetached, reportReady, startDetached } from './daemonize.js'
import { makeDisks } from './disks.js'
import { createLog } from './log.js'
import { type Given, HELP, merge, type Options, parseArguments, parseConfig } from './options.js'
import { writePidFile } from './pidfile.js'
import { installSignals } from './signals.js'
import { StartError, Status } from './start-error.js'
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
  const writer = new LogWriter(2)
  scheduleFor('latency')
  const log = createLog(writer, options.settings.logLevel)
  const daemon = new Daemon(options, { log, writer, notify: sdNotify, exitNow, writePidFile }, (control) =>
    makeDisks(control, options.settings, log),
  )
  installSignals({
    stop: (signal) => daemon.stop(signal),
    stopNow: () => daemon.stopNow(),
    reload: () => {
      daemon.reload()
      void reload(options.settings.config, line, log)
    },
  })
  process.on('uncaughtException', (error) => {
    log.error({ err: error }, 'ended by a bug')
    daemon.stopNow(Status.failed)
  })
  try {
    await daemon.start()
  } catch (error) {
    complain(error)
    await daemon.giveUp(statusOf(error))
  }
  if (isDetached(process.env)) reportReady()
}

/** SIGHUP: takes the log level from the configuration file again; the command line still overrides it. */
async function reload(file: string | undefined, line: Given, log: Logger): Promise<void> {
  if (file === undefined) return
  try {
    // Not the synchronous call of the start: the file's storage may have died since.
    const { settings } = merge(parseConfig(await readFile(file, 'utf8'), file), line)
    log.level = settings.logLevel
    log.info({ level: settings.logLevel }, 'log level read again')
  } catch (error) {
    log.error({ err: error }, 'configuration not read again')
  }
}

function versionText(): string {
  const { major, minor, micro } = PROTOCOL_VERSION.qemu
  return `blockferryd version ${PRODUCT_VERSION} (QMP of QEMU ${major}.${minor}.${micro})\n`
}

/** One line for what stops the start; anything but a StartError is a bug and shows its stack. */
function complain(error: unknown): void {
  const text = error instanceof StartError ? error.message : ((error as Error).stack ?? String(error))
  process.stderr.write(`blockferryd: ${text}\n`)
}

function statusOf(error: unknown): number {
  return error instanceof StartError ? error.status : Status.failed
}

main().catch((error: unknown) => {
  complain(error)
  process.exitCode = statusOf(error)
})
