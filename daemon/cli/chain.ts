// SPDX-License-Identifier: Apache-2.0
// `blockferry commit` and `blockferry stream`: move what the layers of an image hold, down into its backing file or up into
// the image. The work is a job of the daemon.

import { resolve } from 'node:path'
import { isJsonName } from '../../protocol/json-name.js'
import { formatDuration, formatSize } from '../common/units.js'
import type { Client, QmpEvent } from './client.js'
import { findImage, type Image } from './image.js'
import { chainOf } from './info.js'
import type { Outcome } from './job-follower.js'
import { withNodes } from './open-nodes.js'
import { finishJob } from './run-job.js'
import { failed, usage } from './status.js'
import { pathNamed } from './storage.js'
import { textOf } from './values.js'

export interface ChainOptions {
  /** The image that gets the data, or stays below. */
  readonly base?: string
  /** Bytes per second. */
  readonly speed?: number
  readonly quiet: boolean
  readonly socket?: string
  readonly logLevel?: string
}

export interface CommitOptions extends ChainOptions {
  /** The image stays as it is. */
  readonly keep: boolean
}

/** @throws CliError for every end but success */
export async function commit(name: string, options: CommitOptions): Promise<void> {
  const image = await layered(name)
  await withNodes(options, async (daemon, nodes) => {
    const { client } = daemon
    const node = await nodes.open(image, 'commit', { readOnly: false, direct: false })
    const base = options.base ?? (await backingOf(client, node, image))
    if (options.base === undefined && isJsonName(base))
      throw failed(`'${name}' names its backing file by options: '${base}'; name one with -b`)
    const id = nodes.name('commit-job')
    const args = { ...jobOf(id, node, options), base: resolve(pathNamed(base)) }
    // Nobody uses the image who would have to go to the base: it only has to be equal.
    const event = ({ name: told }: QmpEvent) => {
      if (told === 'BLOCK_JOB_READY')
        client.execute('block-job-cancel', { device: id }).catch(() => undefined)
    }
    const started = performance.now()
    const outcome = await finishJob(daemon, 'block-commit', args, {
      what: `commit '${name}' to '${base}'`,
      event,
    })
    // What lies between would show through an image that is emptied.
    if (!options.keep && options.base === undefined) await client.execute('x-image-empty', { node })
    tell(options, `committed '${name}' to '${base}'`, outcome, started)
  })
}

/** @throws CliError for every end but success */
export async function stream(name: string, options: ChainOptions): Promise<void> {
  const image = await layered(name)
  await withNodes(options, async (daemon, nodes) => {
    const node = await nodes.open(image, 'stream', { readOnly: false, direct: false })
    const base = options.base === undefined ? {} : { base: resolve(pathNamed(options.base)) }
    const args = { ...jobOf(nodes.name('stream-job'), node, options), ...base }
    const started = performance.now()
    const outcome = await finishJob(daemon, 'block-stream', args, { what: `stream into '${name}'` })
    tell(options, `streamed into '${name}'`, outcome, started)
  })
}

/** What it did is asked when it is over. */
function jobOf(id: string, device: string, { speed }: ChainOptions) {
  return { 'job-id': id, device, speed, 'auto-dismiss': false }
}

/** @throws CliError for an image that cannot have layers */
async function layered(name: string): Promise<Image> {
  const image = await findImage(name, undefined)
  if (image.format !== 'qcow2') throw usage(`'${name}' is no qcow2 image: it has no layers`)
  return image
}

async function backingOf(client: Client, node: string, image: Image): Promise<string> {
  const [own] = await chainOf(client, node, image)
  const backing = own && textOf(own, 'full-backing-filename')
  if (backing === undefined) throw failed(`'${image.end.name}' has no backing file`)
  return backing
}

function tell({ quiet }: ChainOptions, what: string, { receipt }: Outcome, started: number): void {
  if (quiet) return
  const copied = formatSize(receipt?.copied ?? 0)
  const zeroed = formatSize(receipt?.zeroed ?? 0)
  const time = formatDuration(performance.now() - started)
  process.stdout.write(`${what}: ${copied} copied, ${zeroed} zeroed in ${time}, flushed\n`)
}
