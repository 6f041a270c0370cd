// SPDX-License-Identifier: Apache-2.0
// `blockferry bench`: how fast an image takes requests in a fixed pattern; asks and answers as qemu-img bench does.

import { QmpError } from './client.js'
import { type Format, findImage, warnIfRestricted } from './image.js'
import { withNodes } from './open-nodes.js'
import { runJob } from './run-job.js'
import { failed, usage } from './status.js'
import { numberOf } from './values.js'

const MiB = 1048576
const engines = { native: 'auto', auto: 'auto', threads: 'threads', io_uring: 'io_uring' } as const

/** Sizes and offsets in bytes. */
export interface BenchOptions {
  readonly count: number
  readonly depth: number
  readonly size: number
  readonly step?: number
  readonly offset: number
  readonly write: boolean
  readonly pattern: number
  readonly flushInterval: number
  readonly drain: boolean
  /** The kernel's own asynchronous I/O. */
  readonly native: boolean
  readonly cache: 'none' | 'writeback' | 'unsafe'
  readonly format?: Format
  readonly imageOpts: boolean
  readonly workers?: number
  readonly aio?: 'auto' | 'threads' | 'io_uring'
  readonly forceShare: boolean
  readonly quiet: boolean
  readonly socket?: string
  readonly logLevel?: string
}

/** @param words  the image, and after or before it the engine that -n names */
export async function bench(words: readonly string[], options: BenchOptions): Promise<void> {
  const { name, aio } = imageAndEngine(words, options)
  check(options)
  const image = await findImage(name, options.format, options.imageOpts)
  const { count, depth, size, step = size, offset, write, pattern, flushInterval, drain } = options
  const how = {
    readOnly: !write,
    direct: options.cache === 'none',
    noFlush: options.cache === 'unsafe',
    forceShare: options.forceShare,
    ...(options.workers === undefined ? {} : { tasks: options.workers }),
  }
  await withNodes({ ...options, ...(aio === undefined ? {} : { aio }) }, async (daemon, nodes) => {
    const node = await nodes.open(image, 'bench', how)
    warnIfRestricted(image, how)
    const say = (text: string) => options.quiet || process.stdout.write(`${text}\n`)
    const kind = write ? 'write' : 'read'
    const where = `starting at offset ${offset}, step size ${step}`
    say(`Sending ${count} ${kind} requests, ${size} bytes each, ${depth} in parallel (${where})`)
    if (flushInterval > 0) say(`Sending flush every ${flushInterval} requests`)
    const what = `bench '${name}'`
    const args = {
      'job-id': nodes.name('job'),
      node,
      ...{ write, count, depth, size, step, offset, pattern, drain },
      'flush-interval': flushInterval,
    }
    const result = await runJob(daemon, 'x-bench', args, { what }).catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error
      throw failed(`cannot ${what}: ${error.whole}`, { cause: error })
    })
    say(`Run completed in ${((numberOf(result, 'microseconds') ?? 0) / 1e6).toFixed(3)} seconds.`)
  })
}

function imageAndEngine(words: readonly string[], { native, aio }: BenchOptions) {
  const [first = '', second] = words
  if (words.length > 2) throw usage('one image is expected')
  const given = native ? (aio ?? 'auto') : aio
  if (second === undefined) return { name: first, aio: given }
  const engineOf = (word: string) =>
    Object.hasOwn(engines, word) ? engines[word as keyof typeof engines] : undefined
  const [engine, name] = engineOf(first) === undefined ? [engineOf(second), first] : [engineOf(first), second]
  if (!native || engine === undefined) throw usage(`one image is expected, found '${first}' and '${second}'`)
  return { name, aio: engine }
}

/** What qemu-img refuses, in its order. */
function check({ flushInterval, write, drain, depth, size }: BenchOptions): void {
  if (!write && flushInterval > 0) throw usage('--flush-interval is only available in write tests')
  if (flushInterval > 0 && drain && flushInterval < depth)
    throw usage("Flush interval can't be smaller than depth")
  if (depth < 1) throw usage('Invalid queue depth specified')
  if (size < 1 || size > 16 * MiB) throw usage('a request has 1 byte to 16 MiB')
}
