#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Entry of the blockferry command: runs it and turns how it ended into a line on stderr and an exit status.

import { ConnectionLost } from './client.js'
import { runProgram } from './program.js'
import { CliError, exitStatus } from './status.js'

// A reader that went away (`| head`) is no failure worth a stack trace.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitStatus.failed)
  throw error
})

try {
  await runProgram(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof CliError) && !(error instanceof ConnectionLost)) throw error
  if (error.message !== '') process.stderr.write(`blockferry: ${error.message}\n`)
  process.exitCode = error instanceof CliError ? error.status : exitStatus.failed
}
