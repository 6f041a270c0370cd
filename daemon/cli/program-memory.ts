// SPDX-License-Identifier: Apache-2.0
// The part of the command line that is about the memory of VMs: names, options and their help. Called by program.ts; the
// work is elsewhere.

import { type Command, Option } from 'commander'
import { type ConvertOptions, convertMemory } from './memory/convert.js'
import { type RestoreOptions, restore } from './memory/restore.js'
import { type SaveOptions, save } from './memory/save.js'
import { addLooks } from './program-memory-looks.js'
import { aioOption, collect, embedded, logLevel, size, wholeNumber } from './program-values.js'

const formats = ['mapped-ram', 'stream', 'libvirt-raw', 'libvirt-sparse']

export function addMemory(program: Command): void {
  const memory = program
    .command('memory')
    .description('save, restore, convert and look at the memory of VMs')
    .usage('COMMAND [options]')
    .argument('[command]')
    .argument('[words...]')
    .action((unknown: string | undefined, _words, _options, command: Command) => {
      const which =
        unknown === undefined ? 'which command? See memory --help' : `unknown command '${unknown}'`
      command.error(which)
    })
  addSave(memory)
  addRestore(memory)
  addConvert(memory)
  addLooks(memory)
}

function addSave(memory: Command): void {
  const command = memory
    .command('save')
    .description('store the memory of a VM that a QEMU migrates here; done means complete and durable')
    .argument('[file]', 'appears when all is in it')
    .addOption(
      new Option('--to <format>', 'how it is stored').choices([...formats, 'null']).default('mapped-ram'),
    )
    .option('--qmp <socket>', 'QMP socket of the QEMU: stop the guest, save, continue')
    .option('--live', 'with --qmp: let the guest run until QEMU stops it at the end', false)
    .option('--no-shared', 'with --qmp: have QEMU send memory that lies in files too')
    .addOption(
      new Option('--afterwards <what>', 'with --qmp: what to do with a guest that ran')
        .choices(['continue', 'stop', 'quit'])
        .default('continue'),
    )
    .option(
      '--from <uri>',
      'wait there for the QEMU: unix:PATH, tcp:HOST:PORT; or read from the FIFO file:PATH',
    )
    .option('--connect', 'with --from: connect instead of waiting', false)
    .option('--multifd-channels <count>', 'connections beside the first, as QEMU was told', wholeNumber, 0)
  addTarget(command)
  addRun(command).action((file: string | undefined, options: SaveOptions) => save(file, options))
}

function addRestore(memory: Command): void {
  const command = memory
    .command('restore')
    .description('send the memory in a file to a QEMU that was started with -incoming')
    .argument('<file>', 'of any of the formats; it is checked before anything is sent')
    .argument('<uri>', 'where the QEMU listens: unix:PATH, tcp:HOST:PORT')
    .option('--offset <size>', 'where the image begins in the file', size)
    .option('--no-direct', 'through the page cache (default: where most of the file is in it)')
    .option('--listen', 'wait for the QEMU to connect', false)
    .option('--multifd-channels <count>', 'connections beside the first, as QEMU was told', wholeNumber, 0)
    .option('--zero-pages', 'send zero pages too, for memory that was used before', false)
    .option('--rename <from=to>', 'another name for a block of RAM; may be repeated', collect, [])
    .option('-r, --rate <size>', 'bytes per second at most', size)
  addRun(command).action((file: string, uri: string, options: RestoreOptions) => restore(file, uri, options))
}

function addConvert(memory: Command): void {
  const command = memory
    .command('convert')
    .description('write the memory in a file to another file')
    .argument('<source>', 'file of any of the formats')
    .argument('<target>', 'appears when all is in it')
    .addOption(new Option('--to <format>', 'how it is stored').choices(formats).default('mapped-ram'))
    .option('--source-offset <size>', 'where the image begins in the source', size)
  addTarget(command)
  addRun(command).action((source: string, target: string, options: ConvertOptions) =>
    convertMemory(source, target, options),
  )
}

function addTarget(command: Command): void {
  command
    .option('--offset <size>', 'where the image begins in the target; what is before it stays', size)
    .option('--no-direct', 'through the page cache')
    .option('--channels <count>', 'writes of 1 MiB under way at once (default: 16)', wholeNumber)
    .addOption(
      new Option('--flush <what>', 'full: file and folder; data: the file; none').choices([
        'full',
        'data',
        'none',
      ]),
    )
    .option('--xml <file>', 'XML of the domain, for libvirt images')
    .option('--paused', 'with --xml: the guest is to stay paused after a restore', false)
    .option('--digests', 'write checksums of all pages beside the target, for memory verify', false)
    .option(
      '--ram <block=file>',
      'memory that is not in the stream but in a file; may be repeated',
      collect,
      [],
    )
    .option('--rename <from=to>', 'another name for a block of RAM; may be repeated', collect, [])
    .option('-r, --rate <size>', 'bytes per second at most', size)
}

function addRun(command: Command): Command {
  return command
    .addOption(aioOption())
    .option('--json', 'the result as JSON', false)
    .option('--no-progress', 'no progress, only the result')
    .option('-q, --quiet', 'nothing on stdout', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
}
