// SPDX-License-Identifier: Apache-2.0
// `blockferry resize`: gives an image another size, as qemu-img resize does. Shrinking drops what lies beyond the new end, so it
// is only done when it is asked for. To reserve or write what is new may take long: a job does it.

import { parseSize, sizeProblem } from '../common/units.js'
import { QmpError } from './client.js'
import { type Format, findImage } from './image.js'
import { sizeOfNode } from './node-size.js'
import { withNodes } from './open-nodes.js'
import { finishJob } from './run-job.js'
import { failed, usage } from './status.js'

export interface ResizeOptions {
  readonly format?: Format
  readonly imageOpts: boolean
  readonly forceShare: boolean
  readonly shrink: boolean
  readonly preallocation: 'off' | 'metadata' | 'falloc' | 'full'
  readonly quiet: boolean
  readonly socket?: string
  readonly logLevel?: string
}

/**
 * @param text  the new size, or with a sign how much is added or taken away
 * @throws CliError
 */
export async function resize(name: string, text: string, options: ResizeOptions): Promise<void> {
  if (options.forceShare) throw usage('an image that is in use is resized by who uses it, not with -U')
  const wanted = wantedSize(text)
  const image = await findImage(name, options.format, options.imageOpts)
  await withNodes(options, async (daemon, nodes) => {
    const { client } = daemon
    const node = await nodes.open(image, 'resize', { readOnly: false, direct: false, unmap: true })
    const before = await sizeOfNode(client, node)
    const size = wanted(before)
    if (size <= 0) throw failed('New image size must be positive')
    if (!Number.isSafeInteger(size)) throw failed('New image size must be below 8 PiB')
    const { preallocation, shrink } = options
    if (size < before && !shrink && preallocation === 'off')
      throw failed(
        `'${name}' has ${before} bytes: what lies beyond ${size} bytes would be lost; --shrink does it all the same`,
      )
    const what = `resize '${name}'`
    const changed =
      preallocation === 'off'
        ? client.execute('block_resize', { 'node-name': node, size })
        : finishJob(daemon, 'x-resize', { 'job-id': nodes.name('job'), node, size, preallocation }, { what })
    await changed.catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error
      throw failed(`cannot ${what}: ${error.whole}`, { cause: error })
    })
    if (!options.quiet) process.stdout.write('Image resized.\n')
  })
}

/** @returns the new size for that of before, bytes. @throws CliError (usage) */
function wantedSize(text: string): (before: number) => number {
  const sign = /^[+-]/.exec(text)?.[0]
  const size = sign === undefined ? text : text.slice(1)
  const bytes = parseSize(size)
  if (bytes === undefined) throw usage(`expected ${sizeProblem(size, '10G, +1G or -512M')}, found '${text}'`)
  if (sign === undefined) return () => bytes
  return (before) => (sign === '+' ? before + bytes : before - bytes)
}
