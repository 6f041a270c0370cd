#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Entry of the blockferry command: runs it and turns how it ended into a line on stderr and an exit status.

import { ConnectionLost, QmpError } from './client.js'
import { runProgram } from './program.js'
import { CliError, exitStatus } from './status.js'

// A reader that went away (`| head`) needs no message; a full disk behind stdout does. An embedded daemon sees our end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.stderr.write(`blockferry: cannot write the output: ${error.message}\n`)
  process.exit(exitStatus.failed)
})
// Nobody is left to be told.
process.stderr.on('error', () => undefined)

try {
  await runProgram(process.argv.slice(2))
} catch (error) {
  const known = error instanceof CliError || error instanceof ConnectionLost || error instanceof QmpError
  if (!known) throw error
  if (error.message !== '') process.stderr.write(`blockferry: ${error.message}\n`)
  process.exitCode = error instanceof CliError ? error.status : exitStatus.failed
}
