// SPDX-License-Identifier: Apache-2.0
// The part of the command line that looks at images and copies them: names, options and their help. Called by
// program.ts; the work is elsewhere.

import { type Command, InvalidArgumentError, Option } from 'commander'
import { type BenchOptions, bench } from './bench.js'
import { type CompareOptions, compare } from './compare.js'
import { type ConvertOptions, convert } from './convert.js'
import { formats } from './image.js'
import { type InfoOptions, info } from './info.js'
import { map } from './map.js'
import { type MeasureOptions, measure } from './measure.js'
import { listsOptions } from './option-help.js'
import {
  aioOption,
  cacheOption,
  collect,
  embedded,
  given,
  logLevel,
  size,
  wholeNumber,
} from './program-values.js'
import { type ResizeOptions, resize } from './resize.js'
import { type ServeOptions, serve } from './serve.js'
import { usage } from './status.js'

/** As of qemu-img convert. */
const MOST_SPARSE = 16 * 2 ** 20
const MOST_TASKS = 16

const image = 'file, block device or NBD URI, or options with --image-opts'

export function addTools(program: Command): void {
  addInfo(program)
  addMap(program)
  addCompare(program)
  addConvert(program)
  addMeasure(program)
  addResize(program)
  addBench(program)
  addServe(program)
}

/** `-f` and its kin; absent, the format is guessed. */
export function formatOption(flags: string, what: string): Option {
  return new Option(`${flags} <format>`, what).choices([...formats])
}

function outputOption(): Option {
  return new Option('--output <output>', 'for people or programs').choices(['human', 'json'])
}

function addInfo(program: Command): void {
  const command = program.command('info').description('show what an image is').argument('<image>', image)
  command.addOption(outputOption().default('human')).option('--backing-chain', 'with the layers below', false)
  addCommon(command).action((name: string, options: InfoOptions) => info(name, options))
}

function addMap(program: Command): void {
  const command = program
    .command('map')
    .description('show which ranges of an image are data and which read as zeroes')
    .argument('<image>', image)
    .addOption(outputOption())
    .option('--json', 'the same as --output=json', false)
  addCommon(command).action(map)
}

function addCompare(program: Command): void {
  const command = program
    .command('compare')
    .description('whether two images hold the same disk; exit status 0 alike, 1 not, above that an error')
    .argument('<image>', image)
    .argument('<other>', image)
    .addOption(formatOption('-F, --second-format', 'format of the other'))
    .addOption(cacheOption('-T, --source-cache', 'of both images').default('none'))
    .option('-s, --strict', 'sizes, holes and what has a place must be alike too', false)
    .option('-p, --progress', 'show how far it is', false)
    .option('-q, --quiet', 'only the exit status', false)
  addCommon(command).action((one: string, other: string, options: CompareOptions) =>
    compare(one, other, options),
  )
}

function addConvert(program: Command): void {
  const command = program
    .command('convert')
    .description('copy an image into a new one of another format or layout')
    .usage('[options] <source> <target>')
    .argument('[source]', image)
    .argument('[target]', 'file (made, or overwritten), block device or NBD URI')
    .addOption(formatOption('-O, --target-format', 'format of the target (default: raw)'))
    .option(
      '-l, --snapshot <snapshot>',
      'copy this internal snapshot (qcow2): snapshot.id=ID, snapshot.name=NAME, or an id or name',
    )
    .option('-c, --compress', 'compressed clusters (qcow2)', false)
    .option(
      '-S, --sparse <size>',
      'runs of zeroes that are not stored (default: 64 KiB or a cluster); 0: all take up storage',
      sparseSize,
    )
    .option('-n, --existing', 'the target is there and large enough; do not make it', false)
    .option('--target-is-zero', 'the target is known to read as zeroes everywhere; with -n', false)
    .option(
      '-o, --options <options>',
      'of the new image, as name=value,…; may be repeated; help lists them',
      collect,
      [],
    )
    .option('-B, --backing <file>', 'the new image is a layer above this one; only what differs is copied')
    .option('-F, --backing-format <format>', 'format of the backing file')
    .option('-W, --out-of-order', 'taken as given: pieces are always written as they come', false)
    .option('-m, --tasks <count>', 'pieces of 1 MiB in flight, 1 to 16', taskCount)
    .option('-r, --rate <size>', 'bytes per second at most', size)
    .addOption(cacheOption('-t, --cache', 'of the target; unsafe: nothing is flushed').default('none'))
    .addOption(cacheOption('-T, --source-cache', 'of the source').default('none'))
    .option('-p, --progress', 'show how far it is', false)
    .option('-q, --quiet', 'no result on stdout', false)
    .addOption(aioOption())
  addCommon(command).action(
    async (source: string | undefined, target: string | undefined, options: ConvertOptions) => {
      if (listsOptions(options.targetFormat ?? 'raw', options.options)) return
      await convert(given(source, 'source'), given(target, 'target'), options)
    },
  )
}

function addMeasure(program: Command): void {
  const command = program
    .command('measure')
    .description('how many bytes a new image takes, empty or converted from another')
    .usage('[options] <image> | --size <size>')
    .argument('[image]', image)
    .option('--size <size>', 'in place of an image: of the disk in an empty new one', size)
    .addOption(formatOption('-O, --target-format', 'format of the new image').default('raw'))
    .option(
      '-l, --snapshot <snapshot>',
      'measure this internal snapshot (qcow2): snapshot.id=ID, snapshot.name=NAME, or an id or name',
    )
    .option(
      '-o, --options <options>',
      'of the new image, as name=value,…; may be repeated; help lists them',
      collect,
      [],
    )
    .addOption(outputOption())
    .option('--json', 'the same as --output=json', false)
  addCommon(command).action(async (name: string | undefined, options: MeasureOptions) => {
    if (listsOptions(options.targetFormat, options.options)) return
    await measure(name, options)
  })
}

function addResize(program: Command): void {
  const command = program
    .command('resize')
    .description('give an image another size')
    .argument('<image>', image)
    .argument('<size>', 'new size, or +SIZE or -SIZE: so much more or less')
    .option('--shrink', 'the new size may be less: what lies beyond it is lost', false)
    .addOption(
      new Option(
        '--preallocation <mode>',
        'what is new gets places in the tables, reserved or written storage',
      )
        .choices(['off', 'metadata', 'falloc', 'full'])
        .default('off'),
    )
    .option('-q, --quiet', 'no result on stdout', false)
    // A size may begin as an option does.
    .allowUnknownOption()
    .allowExcessArguments()
  addCommon(command).action((name: string, size: string, options: ResizeOptions) => {
    const unknown = command.args.find((word) => /^-[^\d.]/.test(word))
    if (unknown !== undefined) throw usage(`unknown option '${unknown}'`)
    if (command.args.length > 2) throw usage(`expected an image and a size, found '${command.args[2]}' too`)
    return resize(name, size, options)
  })
}

function addBench(program: Command): void {
  const command = program
    .command('bench')
    .description('measure how fast an image takes requests, as qemu-img bench does')
    .usage('[options] <image>')
    .argument('<image...>', image)
    .option('-c, --count <count>', 'requests altogether', wholeNumber, 75000)
    .option('-d, --depth <count>', 'requests at once', wholeNumber, 64)
    .option('-s, --size <size>', 'bytes of each request', size, 4096)
    .option('-S, --step <size>', 'bytes from one request to the next (default: the size)', size)
    .option('-o, --offset <size>', 'where the first request begins', size, 0)
    .option('-w, --write', 'write instead of read; what is in the image is lost', false)
    .option('--pattern <byte>', 'what is written, 0 to 255', wholeNumber, 0)
    .option('--flush-interval <count>', 'writes between two flushes', wholeNumber, 0)
    .option('--no-drain', 'flush without waiting for the writes in flight')
    .option('-n, --native', 'I/O of the kernel; an engine may follow: auto, threads, io_uring', false)
    .addOption(
      new Option('-t, --cache <cache>', 'page cache')
        .choices(['none', 'writeback', 'unsafe'])
        .default('writeback'),
    )
    .option('--workers <count>', 'scattered pieces of one request at once (qcow2; default: 16)', wholeNumber)
    .option('-q, --quiet', 'nothing on stdout', false)
    .addOption(aioOption())
  addCommon(command).action((words: string[], options: BenchOptions) => bench(words, options))
}

function addServe(program: Command): void {
  program
    .command('serve')
    .description('let NBD clients use an image, until the command is interrupted')
    .argument('<image>', image)
    .addOption(formatOption('-f, --format', 'format of the image (default: guessed)'))
    .option('--image-opts', 'the image is given as options of a node: driver=qcow2,file.filename=…', false)
    .option('--socket <path>', 'listen at a Unix socket')
    .option('--port <number>', 'listen at a TCP port', wholeNumber)
    .option('--bind <host>', 'with --port: the address of this machine to listen at', '127.0.0.1')
    .option('-x, --name <name>', 'name of the export', '')
    .option('-D, --description <text>', 'of the export, for people')
    .option('-r, --read-only', 'clients cannot write', false)
    .option('-e, --shared <count>', 'clients at once, 0 for any number', wholeNumber, 0)
    .addOption(
      new Option('-t, --cache <cache>', 'page cache').choices(['none', 'writeback']).default('writeback'),
    )
    .option('-U, --force-share', 'although another program may be writing it', false)
    .option(
      '--tls <place>',
      'only with TLS: folder of certificates as QEMU has them, or file of USER:KEY lines',
    )
    .option('--no-verify-peer', 'with certificates: clients need none')
    .option(
      '--tls-allow <name>',
      'only clients with this name in their certificate, * and ? fit anything; may be repeated',
      collect,
      [],
    )
    .option('-q, --quiet', 'do not print the URI', false)
    .addOption(aioOption())
    .addOption(logLevel())
    .action((name: string, { tlsAllow, ...options }: ServeOptions & { tlsAllow: readonly string[] }) =>
      serve(name, { ...options, allow: tlsAllow }),
    )
}

function addCommon(command: Command): Command {
  return command
    .addOption(formatOption('-f, --format', 'format of the image (default: guessed)'))
    .option('--image-opts', 'the image is given as options of a node: driver=qcow2,file.filename=…', false)
    .option('-U, --force-share', 'although another program may be writing it', false)
    .option('--socket <socket>', embedded)
    .addOption(logLevel())
}

/** @throws InvalidArgumentError */
function sparseSize(text: string): number {
  const bytes = size(text)
  if (bytes % 512 === 0 && bytes <= MOST_SPARSE) return bytes
  throw new InvalidArgumentError(`Expected 0 or a multiple of 512 up to ${MOST_SPARSE}.`)
}

/** @throws InvalidArgumentError */
function taskCount(text: string): number {
  const count = wholeNumber(text)
  if (count >= 1 && count <= MOST_TASKS) return count
  throw new InvalidArgumentError(`Expected a number from 1 to ${MOST_TASKS}.`)
}
