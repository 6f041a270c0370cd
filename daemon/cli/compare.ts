// SPDX-License-Identifier: Apache-2.0
// `blockferry compare`: whether two images hold the same disk. Lines and exit statuses are those of qemu-img compare.

import type { CacheMode } from './cache-modes.js'
import { QmpError } from './client.js'
import { type Format, findImage } from './image.js'
import { sizeOfNode } from './node-size.js'
import { withNodes } from './open-nodes.js'
import { reporter } from './reporter.js'
import { runJob } from './run-job.js'
import { CliError, exitStatus } from './status.js'
import { flagOf, numberOf, textOf } from './values.js'

export interface CompareOptions {
  readonly format?: Format
  readonly secondFormat?: Format
  readonly imageOpts: boolean
  readonly strict: boolean
  readonly sourceCache: CacheMode
  readonly progress: boolean
  readonly quiet: boolean
  readonly forceShare: boolean
  readonly socket?: string
  readonly logLevel?: string
}

/** 0: alike, 1: not; errors have numbers of their own, so that they are never taken for a difference. */
const status = { different: 1, notOpened: 2, notRead: 4 } as const

/** @throws CliError unless they are alike */
export async function compare(name: string, otherName: string, options: CompareOptions): Promise<void> {
  const [image, other] = await opening(() =>
    Promise.all([
      findImage(name, options.format, options.imageOpts),
      findImage(otherName, options.secondFormat, options.imageOpts),
    ]),
  )
  const how = { readOnly: true, forceShare: options.forceShare }
  const report = reporter({ json: false, progress: options.progress })
  let shorter = 0
  const result = await withNodes({ ...options, disks: 2 }, async (daemon, nodes) => {
    const node = await opening(() => nodes.openCached(image, 'one', how, options.sourceCache))
    const second = await opening(() => nodes.openCached(other, 'other', how, options.sourceCache))
    shorter = Math.min(await sizeOfNode(daemon.client, node), await sizeOfNode(daemon.client, second))
    const args = { 'job-id': nodes.name('job'), node, other: second, strict: options.strict }
    try {
      return await runJob(daemon, 'x-compare', args, {
        progress: (progress) => report.progress(progress),
      })
    } catch (error) {
      // A refused start: an image is in use.
      if (!(error instanceof QmpError)) throw withStatus(error, status.notRead)
      const message = `cannot compare '${name}' and '${otherName}': ${error.whole}`
      throw new CliError(status.notOpened, message, { cause: error })
    } finally {
      report.end()
    }
  })
  const say = (text: string) => options.quiet || process.stdout.write(`${text}\n`)
  const difference = textOf(result, 'difference')
  if (difference === 'size') say('Strict mode: Image size mismatch!')
  if (difference === 'status') say(`Strict mode: Offset ${numberOf(result, 'offset')} block status mismatch!`)
  const offset = numberOf(result, 'offset') ?? 0
  // Where what both have differs, their sizes do not matter.
  const sizes = flagOf(result, 'size-mismatch') && !(difference === 'content' && offset < shorter)
  if (sizes && !options.strict) say('Warning: Image size mismatch!')
  if (difference === 'content') say(`Content mismatch at offset ${offset}!`)
  if (!flagOf(result, 'identical')) throw new CliError(status.different)
  say('Images are identical.')
}

async function opening<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw withStatus(error, status.notOpened)
  }
}

/** What says only that it failed says where; other statuses stay. */
function withStatus(error: unknown, number: number): unknown {
  if (!(error instanceof CliError) || error.status !== exitStatus.failed) return error
  return new CliError(number, error.message, { cause: error })
}
