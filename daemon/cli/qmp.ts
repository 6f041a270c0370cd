// SPDX-License-Identifier: Apache-2.0
// `blockferry qmp`: one command, or a shell with history and completion. Values come out as JSON: indented for a
// terminal, one line otherwise.

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { toText } from '../../protocol/json-text.js'
import type { JsonObject, JsonValue } from '../../protocol/json-value.js'
import { requestOf, wordsOf } from './arguments.js'
import { type Client, type ConnectionLost, QmpError } from './client.js'
import { Completion } from './completion.js'
import { connectTo, socketPath } from './connection.js'
import type { Daemon } from './daemon.js'
import { indented } from './indented.js'
import { CliError, exitStatus, failed } from './status.js'

/** Lines of history that are kept. */
const historyLines = 1000

export async function qmp(words: readonly string[], socket: string | undefined): Promise<void> {
  const request = words.length === 0 ? undefined : requestOf(words)
  const daemon = await connectTo(socketPath(socket))
  try {
    if (request === undefined) await shell(daemon)
    else process.stdout.write(`${show(await execute(daemon.client, request))}\n`)
  } finally {
    await daemon.close()
  }
}

async function execute(client: Client, request: JsonObject): Promise<JsonValue> {
  try {
    return await client.executeRaw(request)
  } catch (error) {
    if (!(error instanceof QmpError)) throw error
    throw failed(`${error.command}: ${error.errorClass}: ${error.message}`, { cause: error })
  }
}

function show(value: JsonValue): string {
  return process.stdout.isTTY ? indented(value) : toText(value)
}

/** Lines are carried out one after the other; the shell ends at the end of input, by 'exit', or with the daemon. */
async function shell(daemon: Daemon): Promise<void> {
  const { client } = daemon
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true
  const completion = terminal ? await completionOf(client) : new Completion(null)
  const history = terminal ? await readHistory() : []
  const lines = createInterface({
    input: process.stdin,
    ...(terminal ? { output: process.stdout } : {}),
    terminal,
    prompt: terminal ? 'blockferry> ' : '',
    history,
    historySize: historyLines,
    removeHistoryDuplicates: true,
    completer: (line: string) => completion.complete(line),
  })
  client.onEvent((event) => printAbove(lines, terminal, show(event.value)))
  let failures = 0
  let lost: ConnectionLost | undefined
  client.onLost((reason) => {
    lost = reason
    lines.close()
  })
  lines.on('SIGINT', () => giveUpLine(lines))
  lines.on('history', (changed: string[]) => history.splice(0, Infinity, ...changed))
  lines.prompt()
  for await (const line of lines) {
    if (line.trim() === 'exit') break
    if (!(await carryOut(client, line))) failures++
    if (lost !== undefined) break
    lines.prompt()
  }
  if (terminal) await writeHistory(history)
  if (lost !== undefined) throw failed(`the daemon at '${daemon.socket}' is gone: ${lost.message}`)
  // Input from a pipe is a script: its status tells whether all of it worked.
  if (failures > 0 && !terminal) throw new CliError(exitStatus.failed, `${failures} of the commands failed`)
}

/** A daemon without introspection gets a shell without completion. */
async function completionOf(client: Client): Promise<Completion> {
  try {
    return new Completion(await client.execute('query-qmp-schema'))
  } catch (error) {
    if (error instanceof QmpError) return new Completion(null)
    throw error
  }
}

/** @returns whether the line worked; what went wrong has been told */
async function carryOut(client: Client, line: string): Promise<boolean> {
  const words = wordsOf(line)
  if (words.length === 0 || line.trimStart().startsWith('#')) return true
  try {
    process.stdout.write(`${show(await execute(client, requestOf(words)))}\n`)
    return true
  } catch (error) {
    if (!(error instanceof CliError)) return false // the loss of the connection is told by the shell
    process.stderr.write(`blockferry: ${error.message}\n`)
    return false
  }
}

/** ^C: throws away what is half typed; with nothing typed, ends the shell. */
function giveUpLine(lines: Interface): void {
  if (lines.line === '') {
    lines.close()
    return
  }
  process.stdout.write('^C\n')
  // The keys that delete to the end and to the beginning of the line: what stands on the screen is left there.
  lines.write(null, { ctrl: true, name: 'k' })
  lines.write(null, { ctrl: true, name: 'u' })
  lines.prompt()
}

/** Prints while a line may be half typed. */
function printAbove(lines: Interface, terminal: boolean, text: string): void {
  if (!terminal) {
    process.stdout.write(`${text}\n`)
    return
  }
  process.stdout.write(`\r\x1b[K${text}\n`)
  lines.prompt(true)
}

function historyFile(): string {
  const state = process.env.XDG_STATE_HOME ?? join(homedir(), '.local', 'state')
  return join(state, 'blockferry', 'history')
}

/** Newest first, as readline has it. A history that cannot be read is an empty one. */
async function readHistory(): Promise<string[]> {
  const text = await readFile(historyFile(), 'utf8').catch(() => '')
  return text.split('\n').filter((line) => line !== '')
}

async function writeHistory(history: readonly string[]): Promise<void> {
  const file = historyFile()
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 })
    await writeFile(file, history.map((line) => `${line}\n`).join(''), { mode: 0o600 })
  } catch (error) {
    process.stderr.write(`blockferry: cannot keep the history: ${(error as Error).message}\n`)
  }
}
