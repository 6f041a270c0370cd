// SPDX-License-Identifier: Apache-2.0
// `blockferry bitmap`: the dirty bitmaps that a qcow2 image keeps. Each verb is the daemon's command; the image is open
// only while it runs, and what was changed is in it when the command ends.

import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { type Client, QmpError } from './client.js'
import { findImage } from './image.js'
import { type OpenNodes, withNodes } from './open-nodes.js'
import { failed } from './status.js'
import { table } from './table.js'
import { flagOf, numberOf, objectsOf, textOf } from './values.js'

export interface BitmapOptions {
  readonly socket?: string
  readonly logLevel?: string
}

export interface AddBitmapOptions extends BitmapOptions {
  /** Bytes per bit; absent: the cluster size, within 4096 and 65536. */
  readonly granularity?: number
  readonly disabled: boolean
}

export interface MergeBitmapOptions extends BitmapOptions {
  /** Image of the sources; absent: that of the target. */
  readonly from?: string
}

export interface ListBitmapsOptions extends BitmapOptions {
  readonly json: boolean
  readonly forceShare: boolean
}

export const simpleBitmapVerbs = {
  remove: 'take bitmaps out of an image; all that can be done with an inconsistent one',
  clear: 'forget what bitmaps have marked',
  enable: 'let bitmaps follow writes',
  disable: 'stop bitmaps from following writes',
} as const
export type SimpleBitmapVerb = keyof typeof simpleBitmapVerbs

export async function addBitmaps(
  image: string,
  names: readonly string[],
  options: AddBitmapOptions,
): Promise<void> {
  const { granularity, disabled } = options
  await changing(image, options, async (client, node) => {
    for (const name of names) {
      const more = granularity === undefined ? {} : { granularity }
      await told(`add bitmap '${name}' to '${image}'`, () =>
        client.execute('block-dirty-bitmap-add', { node, name, persistent: true, disabled, ...more }),
      )
    }
  })
}

/** All of them in the order they are named; what was done before a refusal stays done. */
export async function changeBitmaps(
  verb: SimpleBitmapVerb,
  image: string,
  names: readonly string[],
  options: BitmapOptions,
): Promise<void> {
  await changing(image, options, async (client, node) => {
    for (const name of names)
      await told(`${verb} bitmap '${name}' of '${image}'`, () =>
        client.execute(`block-dirty-bitmap-${verb}`, { node, name }),
      )
  })
}

export async function mergeBitmaps(
  image: string,
  target: string,
  names: readonly string[],
  options: MergeBitmapOptions,
): Promise<void> {
  await changing(image, options, async (client, node, nodes) => {
    const { from } = options
    const other =
      from === undefined ? node : await nodes.open(await findImage(from, undefined), 'from', READING)
    const bitmaps = names.map((name) => ({ node: other, name }))
    const sources = `${names.map((name) => `'${name}'`).join(', ')} of '${from ?? image}'`
    await told(`merge ${sources} into bitmap '${target}' of '${image}'`, () =>
      client.execute('block-dirty-bitmap-merge', { node, target, bitmaps }),
    )
  })
}

export async function listBitmaps(image: string, options: ListBitmapsOptions): Promise<void> {
  const found = await findImage(image, undefined)
  await withNodes(options, async ({ client }, nodes) => {
    const node = await nodes.open(found, 'bitmap', {
      ...READING,
      forceShare: options.forceShare,
      noBacking: true,
    })
    await nodes.look(node)
    const all = objectsOf(await client.execute('query-named-block-nodes', { flat: true }))
    const shown = all.find((each) => textOf(each, 'node-name') === node)
    const bitmaps = objectsOf(shown?.['dirty-bitmaps'] ?? []).reverse()
    if (options.json) process.stdout.write(`${toText(bitmaps)}\n`)
    else if (bitmaps.length > 0)
      process.stdout.write(
        table(['NAME', 'GRANULARITY', 'DIRTY', 'STATE'], bitmaps.map(row), [
          'left',
          'right',
          'right',
          'left',
        ]),
      )
  })
}

const READING = { readOnly: true, direct: false } as const

async function changing(
  image: string,
  options: BitmapOptions,
  work: (client: Client, node: string, nodes: OpenNodes) => Promise<void>,
): Promise<void> {
  const found = await findImage(image, undefined)
  await withNodes(options, async ({ client }, nodes) => {
    await work(client, await nodes.open(found, 'bitmap', { readOnly: false, direct: false }), nodes)
  })
}

/** @throws CliError that says what could not be done, with which bitmap of which image */
async function told(what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (cause) {
    if (!(cause instanceof QmpError)) throw cause
    throw failed(`cannot ${what}: ${cause.whole}`, { cause })
  }
}

function row(bitmap: JsonObject): string[] {
  const state = flagOf(bitmap, 'recording') ? 'recording' : 'disabled'
  return [
    textOf(bitmap, 'name') ?? '',
    String(numberOf(bitmap, 'granularity')),
    String(numberOf(bitmap, 'count')),
    flagOf(bitmap, 'inconsistent') ? 'inconsistent' : state,
  ]
}
