// SPDX-License-Identifier: Apache-2.0
// The command line of `blockferry`: names, options and their help. Values are checked here; the work is elsewhere.

import { Command, CommanderError, Option } from 'commander'
import { PRODUCT_VERSION } from '../common/version.js'
import { type BackupOptions, backup } from './backup.js'
import { type CheckOptions, check } from './check.js'
import { defaultSocket } from './connection.js'
import { create } from './create.js'
import type { CreateOptions } from './create-request.js'
import { type JobVerb, jobVerbs, listJobs, setJobSpeed, steerJob } from './jobs.js'
import { mirror } from './mirror.js'
import type { MirrorOptions } from './mirror-request.js'
import { listsOptions } from './option-help.js'
import { addBitmap } from './program-bitmap.js'
import { addChain } from './program-chain.js'
import { addImages } from './program-images.js'
import { addMemory } from './program-memory.js'
import { addTools, formatOption } from './program-tools.js'
import {
  aioOption,
  cacheOption,
  collect,
  embedded,
  given,
  logLevel,
  size,
  usageFails,
} from './program-values.js'
import { qmp } from './qmp.js'
import { CliError, exitStatus } from './status.js'

interface SteerOptions {
  readonly socket?: string
  readonly soft?: boolean
}

/**
 * @param args  what follows the program's name
 * @throws CliError for everything that does not end with status 0
 */
export async function runProgram(args: readonly string[]): Promise<void> {
  try {
    await createProgram().parseAsync(args, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version were asked for; anything else is a usage error that commander has already told.
    if (error.exitCode !== 0) throw new CliError(exitStatus.usage)
  }
}

function createProgram(): Command {
  const program = new Command('blockferry')
    .description('mirror VM disks, watch and steer the jobs of a blockferry daemon')
    .version(`blockferry ${PRODUCT_VERSION}`, '-V, --version')
    .exitOverride()
    .showSuggestionAfterError(false)
    .configureHelp({ helpWidth: 100 })
    .configureOutput({ outputError: (text, write) => write(oneLine(text)) })
    .addHelpText('after', footer)
    // The options of a command that there is not are no mistake of their own.
    .allowUnknownOption()
    .action((unknown: string | undefined, _words, _options, command: Command) => {
      if (unknown === undefined) command.error('which command? See --help')
      command.error(`unknown ${unknown.startsWith('-') ? 'option' : 'command'} '${unknown}'`)
    })
    .argument('[command]')
    .argument('[words...]')
    .usage('COMMAND [options]')
  addMirror(program)
  addBackup(program)
  addJobs(program)
  addCreate(program)
  addCheck(program)
  addBitmap(program)
  addTools(program)
  addChain(program)
  addImages(program)
  addMemory(program)
  addOthers(program)
  return program
}

const footer = `
Sizes are bytes or have a binary suffix: 512k, 100M, 1.5G.
SOCKET is $BLOCKFERRY_SOCKET or ${defaultSocket} where it is not given.
Exit status: 0 done, 1 failed, 2 usage, 3 cannot connect, 130 interrupted.`

const policies = ['report', 'ignore', 'enospc', 'stop']

function addMirror(program: Command): void {
  const command = program
    .command('mirror')
    .description('copy a disk image or device; done means equal and durable')
    .argument('<source>', 'file, block device or NBD URI; opened read-only')
    .argument('<target>', 'file (made, or overwritten), block device or NBD URI')
    .addOption(formatOption('-f, --source-format', 'format of the source (default: guessed)'))
    .addOption(formatOption('-O, --target-format', 'format of the target (default: raw)'))
    .option('--speed <size>', 'bytes per second at most', size)
    .option('--direct', 'O_DIRECT at both ends, or fail (default: O_DIRECT where both ends allow it)')
    .option('--no-direct', 'through the page cache')
    .option('--socket <socket>', embedded)
    .option('--job-id <id>', 'name of the job')
    .option('--granularity <size>', 'bytes per dirty bit, a power of two', size)
    .option('--buf-size <size>', 'bytes in flight at most', size)
    .option('--unmap', 'zeroes may become holes in the target', true)
    .option('--no-unmap', 'zeroes take up storage in the target')
    .option('--target-is-zero', 'the target is known to read as zeroes everywhere', false)
  copyOptions(command).action((source: string, target: string, options: MirrorOptions, command: Command) => {
    checkEngine(options, command)
    return mirror(source, target, options)
  })
}

/** What all copies have. */
function copyOptions(command: Command): Command {
  return command
    .option('--existing', 'the target is there and has the right size; do not make or empty it', false)
    .option('-U, --force-share', 'read the source although another program may be writing it', false)
    .addOption(
      new Option('--on-source-error <policy>', 'after a read error').choices(policies).default('report'),
    )
    .addOption(
      new Option('--on-target-error <policy>', 'after a write error').choices(policies).default('report'),
    )
    .addOption(aioOption())
    .option('--json', 'events as JSON lines on stdout, the result last', false)
    .option('--no-progress', 'no progress, only the result')
    .addOption(logLevel())
}

function addBackup(program: Command): void {
  const command = program
    .command('backup')
    .description('copy a disk as it is at one moment, also while it is written')
    .argument('<source>', 'file, block device or NBD URI; with --node a node of the daemon')
    .argument('<target>', 'file (made, or overwritten), block device or NBD URI')
    .addOption(formatOption('-f, --source-format', 'format of the source (default: guessed)'))
    .addOption(formatOption('-O, --target-format', 'format of the target (default: raw)'))
    .addOption(
      new Option('--sync <mode>', 'what to copy')
        .choices(['full', 'top', 'incremental', 'bitmap'])
        .default('full'),
    )
    .option('--bitmap <name>', 'dirty bitmap of the source: what to copy, or what was copied')
    .addOption(
      new Option(
        '--bitmap-mode <mode>',
        'when the bitmap forgets what was copied (default: on-success)',
      ).choices(['on-success', 'never', 'always']),
    )
    .option('--compress', 'store compressed; needs -O qcow2', false)
    .option('--speed <size>', 'bytes per second at most', size)
    .option('--direct', 'O_DIRECT at both ends, or fail (default: O_DIRECT where both ends allow it)')
    .option('--no-direct', 'through the page cache')
    .option('--socket <socket>', embedded)
    .option('--node', 'SOURCE is a node of the daemon at --socket', false)
    .option('--job-id <id>', 'name of the job')
  copyOptions(command).action((source: string, target: string, options: BackupOptions, command: Command) => {
    checkEngine(options, command)
    return backup(source, target, { ...options, unmap: true, targetIsZero: false })
  })
}

/** An engine is chosen when a daemon starts. */
function checkEngine({ aio, socket }: Pick<MirrorOptions, 'aio' | 'socket'>, command: Command): void {
  if (aio !== undefined && socket !== undefined && socket !== 'embedded')
    command.error(`--aio is for the command's own daemon, not for the one at '${socket}'`)
}

function addJobs(program: Command): void {
  program
    .command('jobs')
    .description("list a daemon's jobs")
    .option('--watch', 'go on showing them as they change', false)
    .option('--json', 'one list of objects per look', false)
    .option('--socket <socket>', 'socket of the daemon')
    .action(listJobs)
  const job = program
    .command('job')
    .description('steer a job')
    .usage('VERB ID [options]')
    .argument('[verb]')
    .argument('[words...]')
    .action((verb: string | undefined, _words, _options, command: Command) => {
      command.error(verb === undefined ? 'which verb? See job --help' : `unknown verb '${verb}'`)
    })
  for (const [name, help] of Object.entries(jobVerbs)) {
    const verb = name as JobVerb
    const command = job.command(verb).description(help)
    command.argument('<id>').option('--socket <socket>', 'socket of the daemon')
    if (verb === 'cancel') command.option('--soft', 'a ready mirror ends with a consistent target', false)
    command.action((id: string, options: SteerOptions) => steerJob(verb, id, options.socket, options.soft))
  }
  job
    .command('set-speed')
    .description('limit the speed, also of a running job')
    .argument('<id>')
    .argument('<size>', 'bytes per second, 0 for no limit', size)
    .option('--socket <socket>', 'socket of the daemon')
    .action((id: string, speed: number, options: SteerOptions) => setJobSpeed(id, speed, options.socket))
}

function addCreate(program: Command): void {
  program
    .command('create')
    .description('make an empty disk image; an existing file is overwritten')
    .usage('[options] <file> [size]')
    .argument('[file]', 'file (made, or overwritten) or block device')
    .argument('[size]', 'size of the disk; default: that of the backing file', size)
    .addOption(new Option('-f, --format <format>', 'format').choices(['raw', 'qcow2']).default('raw'))
    .option('-b, --backing <file>', 'image that shows through; relative names are relative to the new image')
    .option('-F, --backing-format <format>', 'format of the backing file; needed with -b')
    .option('-o, --options <name=value,...>', 'as of qemu-img create; help lists them', collect, [])
    .option('-u, --unsafe', 'do not look at the backing file', false)
    .option('-q, --quiet', 'print nothing', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
    .action(async (file: string | undefined, bytes: number | undefined, options: CreateOptions) => {
      if (listsOptions(options.format, options.options)) return
      await create(given(file, 'file'), bytes, options)
    })
}

function addCheck(program: Command): void {
  usageFails(program.command('check'))
    .description(
      'look for errors in a qcow2 image; exit status 0 clean, 1 check failed, 2 corruptions, 3 leaks, 63 no such check',
    )
    .argument('<image>', 'file or block device, or options with --image-opts')
    .addOption(new Option('-r, --repair <what>', 'repair what was found').choices(['leaks', 'all']))
    .option('-f, --format <format>', 'format of the image (default: qcow2)')
    .option('--image-opts', 'the image is given as options of a node: driver=qcow2,file.filename=…', false)
    .addOption(cacheOption('-T, --source-cache', 'of the image').default('writeback'))
    .addOption(new Option('--output <kind>', 'how to show it').choices(['human', 'json']).default('human'))
    .option('-U, --force-share', 'although another program may be writing it', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
    .action((image: string, options: CheckOptions) => check(image, options))
}

function addOthers(program: Command): void {
  program
    .command('qmp')
    .description('send one command to a daemon, or talk to it in a shell')
    .argument('[command...]', 'NAME, then a JSON object or key=value pairs')
    .option('--socket <socket>', 'socket of the daemon')
    .action((words: string[], options: SteerOptions) => qmp(words, options.socket))
  program
    .command('version')
    .description('print the version')
    .action(() => {
      process.stdout.write(`blockferry ${PRODUCT_VERSION}\n`)
    })
}

/** commander's "error: text." and what follows it as one line in our style. */
function oneLine(text: string): string {
  const line = text.trim().replace(/\s*\n\s*/g, ' ')
  return `blockferry: ${line.replace(/^error: /, '').replace(/\.$/, '')}\n`
}
