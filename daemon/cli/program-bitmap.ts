// SPDX-License-Identifier: Apache-2.0
// The part of the command line about dirty bitmaps of images: names, options and their help. Called by program.ts; the
// work is elsewhere.

import type { Command } from 'commander'
import {
  addBitmaps,
  changeBitmaps,
  type ListBitmapsOptions,
  listBitmaps,
  mergeBitmaps,
  type SimpleBitmapVerb,
  simpleBitmapVerbs,
} from './bitmap.js'
import { embedded, logLevel, size } from './program-values.js'

const image = 'file or block device with a qcow2 image'

export function addBitmap(program: Command): void {
  const bitmap = program
    .command('bitmap')
    .description('dirty bitmaps that a qcow2 image keeps')
    .usage('VERB IMAGE NAME... [options]')
    .argument('[verb]')
    .argument('[words...]')
    // The options of a verb that there is not are no mistake of their own.
    .allowUnknownOption()
    .action((_verb, _words, _options, command: Command) => command.error(noVerb(command)))
  const verb = (name: string, help: string) =>
    bitmap
      .command(name)
      .description(help)
      .argument('<image>', image)
      .option('--socket <socket>', embedded)
      .addOption(logLevel())
  verb('add', 'add bitmaps to an image; they follow writes from then on')
    .argument('<name...>')
    .option('-g, --granularity <size>', 'bytes per bit (default: the cluster size, 4k to 64k)', size)
    .option('--disabled', 'they do not follow writes', false)
    .action(addBitmaps)
  for (const [name, help] of Object.entries(simpleBitmapVerbs))
    verb(name, help)
      .argument('<name...>')
      .action((file: string, names: readonly string[], options) =>
        changeBitmaps(name as SimpleBitmapVerb, file, names, options),
      )
  verb('merge', 'mark in a bitmap what others have marked')
    .argument('<target>', 'bitmap that is changed')
    .argument('<name...>', 'bitmaps that are read')
    .option('-b, --from <image>', 'image of the bitmaps that are read (default: the same)')
    .action(mergeBitmaps)
  verb('list', 'show the bitmaps of an image, the oldest first')
    .option('--json', 'as query-named-block-nodes has them', false)
    .option('-U, --force-share', 'although another program may be writing the image', false)
    .action((file: string, options: ListBitmapsOptions) => listBitmaps(file, options))
}

/** What is wrong with words that name no verb. qemu-img has verbs as options, at any place. */
function noVerb({ args, commands }: Command): string {
  const [first] = args
  if (first === undefined) return 'which verb? See bitmap --help'
  const meant = commands.find((verb) => args.includes(`--${verb.name()}`))?.name()
  if (meant !== undefined)
    return `unknown option '--${meant}'; '${meant}' is a verb: see bitmap ${meant} --help`
  return `unknown ${first.startsWith('-') ? 'option' : 'verb'} '${first}'`
}
