// SPDX-License-Identifier: Apache-2.0
// The part of the command line that moves images over HTTP: names, options and their help. Called by program.ts; the work is
// elsewhere.

import type { Command } from 'commander'
import { type DownloadOptions, download } from './images/download.js'
import {
  type AddOptions,
  addTicket,
  extendTicket,
  removeTicket,
  showTicket,
  type TicketOptions,
} from './images/ticket.js'
import { type UploadOptions, upload } from './images/upload.js'
import { size, wholeNumber } from './program-values.js'

const CONNECTIONS = 4
const TIMEOUT_S = 300
const url = 'of the image: http[s]://HOST:PORT/images/TICKET'

export function addImages(program: Command): void {
  const uploads = program
    .command('upload')
    .description('send the bytes of an image file or device to an HTTP server; done means durable there')
    .argument('<file>', 'file or block device; its bytes are sent, whatever its format')
    .argument('<url>', url)
    .option('-U, --force-share', 'read the file although another program may be writing it', false)
    .option('--resume <record>', 'keep in this file what is done, and go on from there when it was cut off')
  addTransfer(uploads).action((file: string, where: string, options: UploadOptions) =>
    upload(file, where, options),
  )
  const downloads = program
    .command('download')
    .description(
      'fetch the bytes of an image from an HTTP server; done means whole and durable. One that was cut off goes on',
    )
    .argument('<url>', url)
    .argument('<file>', 'file to make')
    .option('--force', 'replace a file that is there', false)
  addTransfer(downloads).action((where: string, file: string, options: DownloadOptions) =>
    download(where, file, options),
  )
  addTickets(program)
}

function addTransfer(command: Command): Command {
  return command
    .option(
      '--connections <count>',
      'requests at once, as far as the server offers',
      wholeNumber,
      CONNECTIONS,
    )
    .option('--ca <file>', 'certificates of who may have signed the server’s, PEM')
    .option('--no-progress', 'no progress')
}

function addTickets(program: Command): void {
  const ticket = program
    .command('ticket')
    .description('tickets of a daemon that serves images over HTTP')
    .usage('COMMAND [options]')
    .argument('[command]')
    .argument('[words...]')
    .action((unknown: string | undefined, _words, _options, command: Command) => {
      command.error(
        unknown === undefined ? 'which command? See ticket --help' : `unknown command '${unknown}'`,
      )
    })
  const control = (command: Command) =>
    command.requiredOption('--control <socket>', 'the daemon’s socket for tickets (--images-control)')
  control(ticket.command('add').description('let whoever knows the id it prints use an image'))
    .argument(
      '<image>',
      'file, block device, or URL as in tickets: file:///PATH (as it stands: %20 is no blank), nbd:unix:PATH, …',
    )
    .option('--id <id>', 'its id (default: a random UUID)')
    .option('--size <size>', 'bytes that may be touched (default: those of the file)', size)
    .option('--ops <ops>', 'read, write or both: read,write', 'read')
    .option('--timeout <seconds>', 'it may be unused so long', wholeNumber, TIMEOUT_S)
    .option('--sparse', 'zeroing gives storage back', false)
    .option('--filename <name>', 'under which browsers save it')
    .action((image: string, options: AddOptions) => addTicket(image, options))
  control(ticket.command('show').description('what it allows and what was done'))
    .argument('<id>')
    .action((id: string, options: TicketOptions) => showTicket(id, options))
  control(ticket.command('extend').description('let it expire so many seconds from now'))
    .argument('<id>')
    .argument('<seconds>', '', wholeNumber)
    .action((id: string, seconds: number, options: TicketOptions) => extendTicket(id, seconds, options))
  const removal =
    'stop its requests; nothing is written any more when it is done. Fails where there is no such ticket'
  control(ticket.command('rm').description(removal))
    .argument('<id>')
    .action((id: string, options: TicketOptions) => removeTicket(id, options))
}
