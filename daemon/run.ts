// SPDX-License-Identifier: Apache-2.0
// The daemon in its process: log, signals, start, and what ends it. Called by main.ts, which loads it when it is needed.

import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import { LogWriter } from '../native/log-writer.js'
import { exitNow, scheduleFor, sdNotify } from '../native/process.js'
import { Daemon } from './daemon.js'
import { isDetached, reportReady } from './daemonize.js'
import { makeDisks } from './disks.js'
import type { StartWorker } from './iothread/handle.js'
import { createLog } from './log.js'
import { type Given, merge, type Options, parseConfig } from './options.js'
import { writePidFile } from './pidfile.js'
import { installSignals } from './signals.js'
import { complain, Status } from './start-error.js'

/**
 * Returns when the daemon is ready; it lives on.
 * @param line  options of the command line, which override those of the file, also when that is read again
 */
export async function runDaemon(options: Options, line: Given, startWorker: StartWorker): Promise<void> {
  const writer = new LogWriter(2)
  scheduleFor('latency')
  const log = createLog(writer, options.settings.logLevel)
  const daemon = new Daemon(options, { log, writer, notify: sdNotify, exitNow, writePidFile }, (control) =>
    makeDisks(control, options.settings, log, startWorker),
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
    await daemon.giveUp(complain(error))
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
