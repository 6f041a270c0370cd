// SPDX-License-Identifier: Apache-2.0
// Answers the requests of one connection for one image: which they are, and what every reply of the images API has in
// common. What is done with bytes lies in the files beside.
// Source: the images API of oVirt, as its image server has it.

import { FormatError } from '../../../../protocol/format-error.js'
import type { RequestHead } from '../../../../protocol/http/head.js'
import { parsePatch } from '../../../../protocol/http/json-body.js'
import { Refusal } from '../../../../protocol/http/refusal.js'
import { checkMethod, parseTarget, type Target } from '../../../../protocol/http/routes.js'
import { CommandError, IoError } from '../../../errors.js'
import { corsHeaders } from '../../../http/cors.js'
import type { Exchange } from '../../../http/exchange.js'
import type { Answerer } from '../../../http/serve.js'
import type { HttpStream } from '../../../http/stream.js'
import type { Holder } from '../piece-pool.js'
import { sendChecksum } from './checksum.js'
import { listExtents } from './extents.js'
import { getBytes } from './get.js'
import { ImageLane } from './lane.js'
import { zeroBytes } from './patch.js'
import { putBytes } from './put.js'
import type { ImageEnv, ServedImage } from './served-image.js'

/** What is told to clients; more are served. */
const MOST_READERS = 8
const MOST_WRITERS = 8

export class ImageAnswers implements Answerer {
  readonly #image: ServedImage
  readonly #env: ImageEnv
  readonly #holder: Holder
  #lane: ImageLane | undefined
  /** Of the request that mine() looked at last. */
  #target: Target | undefined

  constructor(image: ServedImage, env: ImageEnv, holder: Holder) {
    this.#image = image
    this.#env = env
    this.#holder = holder
  }

  mine(head: RequestHead): boolean {
    try {
      this.#target = parseTarget(head.target, 'local')
    } catch {
      // Whoever answers what names nothing says what is wrong with it.
      return false
    }
    const { resource } = this.#target
    if (resource.kind !== 'image' && resource.kind !== 'extents' && resource.kind !== 'checksum') return false
    const { ticket, retired } = this.#image
    // What began under this ticket ends under it.
    return resource.ticket === ticket.spec.id && (!retired || this.#lane?.begun === true)
  }

  async answer(exchange: Exchange): Promise<void> {
    const target = this.#target
    if (target === undefined) throw new Error('a request that is not ours')
    using _begun = this.#lane?.takeBegun()
    const { method } = exchange.head
    checkMethod(target.resource, method)
    if (target.resource.kind === 'extents')
      return listExtents(this.#image, exchange, target.query.get('context') ?? 'zero')
    if (target.resource.kind === 'checksum')
      return sendChecksum(this.#image, this.#env, exchange, target.query)
    switch (method) {
      case 'OPTIONS':
        return this.#options(exchange)
      case 'GET':
        await getBytes(this.#image, this.#env.pool, this.#holder, exchange, target.query)
        return this.#saw(exchange, target)
      case 'PUT':
        await putBytes(this.#image, this.#env.pool, this.#holder, exchange, target.query)
        return this.#saw(exchange, target)
      default:
        return this.#patch(exchange)
    }
  }

  elsewhere(stream: HttpStream): Promise<void> | undefined {
    return this.#lane?.lend(stream)
  }

  /** The connection is served here no more. */
  async close(): Promise<void> {
    await this.#lane?.close()
  }

  failed(exchange: Exchange, error: unknown): Refusal {
    const known = error instanceof IoError || error instanceof CommandError || error instanceof FormatError
    if (!known) throw error
    const op = error instanceof IoError ? error.op : 'open'
    const { method } = exchange.head
    this.#env.log('warn', { op, method, err: error.message }, 'a request for an image failed')
    return new Refusal(500, `the image server could not do this: ${error.message}`, [], { cause: error })
  }

  #saw(exchange: Exchange, { query }: Target): void {
    this.#lane ??= new ImageLane(this.#image, this.#env, this.#holder)
    this.#lane.saw(exchange, query)
  }

  async #options(exchange: Exchange): Promise<void> {
    const { ticket } = this.#image
    using _operation = ticket.begin('read', true, () => undefined)
    const writes = ticket.spec.ops.includes('write')
    const { unixSocket } = ticket.spec
    exchange.reply(
      200,
      [
        ['allow', writes ? 'OPTIONS,GET,PUT,PATCH' : 'OPTIONS,GET'],
        ['content-type', 'application/json'],
        ...corsHeaders(exchange.head),
      ],
      JSON.stringify({
        features: ['checksum', 'extents', ...(writes ? ['flush', 'zero'] : [])],
        ...(unixSocket !== undefined && { unix_socket: unixSocket }),
        max_readers: MOST_READERS,
        max_writers: MOST_WRITERS,
      }),
    )
  }

  /** Begun before its body is there: who ends the ticket waits for it, or stops it. */
  async #patch(exchange: Exchange): Promise<void> {
    const image = this.#image
    using operation = image.ticket.begin('write', true, (refusal) => exchange.stream.interrupt(refusal))
    const patch = parsePatch(await exchange.bodyText())
    operation.check()
    if (patch.op === 'zero') await zeroBytes(image, operation, patch)
    else await image.flush()
    exchange.reply(200)
  }
}
