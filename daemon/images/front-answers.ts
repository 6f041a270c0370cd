// SPDX-License-Identifier: Apache-2.0
// Answers the requests of one connection that are not for a disk: what the server offers, tickets of the control service,
// and everything that names nothing, or nothing that may be served.

import type { RequestHead } from '../../protocol/http/head.js'
import { parseExtension, parseTicket } from '../../protocol/http/json-body.js'
import { badRequest, Refusal } from '../../protocol/http/refusal.js'
import type { Header } from '../../protocol/http/reply.js'
import { checkMethod, parseTarget, type Resource, type Service } from '../../protocol/http/routes.js'
import { PRODUCT_VERSION } from '../common/version.js'
import { corsHeaders } from '../http/cors.js'
import type { Exchange } from '../http/exchange.js'
import type { Answerer } from '../http/serve.js'
import type { Answer, Question } from './messages.js'

export interface Asks {
  ask(question: Question): Promise<Answer>
}

/** What the server can do with any image that its ticket allows to be read and written. */
const FEATURES = ['checksum', 'extents', 'flush', 'zero']
/** Of checksums. */
const ALGORITHMS = ['blake2b']
const JSON_TYPE: Header = ['content-type', 'application/json']

export class FrontAnswers implements Answerer {
  readonly #service: Service
  readonly #asks: Asks
  /** Of the request that mine() looked at last; a refusal where it names nothing. */
  #resource: Resource | Refusal | undefined
  /** The ticket of that request, when it is not ours. */
  ticket = ''
  /** The answer to that request, when its ticket was not admitted. */
  #refused: Refusal | undefined

  constructor(service: Service, asks: Asks) {
    this.#service = service
    this.#asks = asks
  }

  mine({ method, target }: RequestHead): boolean {
    if (this.#refused !== undefined) return true
    try {
      const { resource } = parseTarget(target, this.#service)
      this.#resource = resource
      checkMethod(resource, method)
      if (!('ticket' in resource) || resource.kind === 'ticket' || isServer(resource, method)) return true
      this.ticket = resource.ticket
      return false
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      this.#resource = error
      return true
    }
  }

  /** After a request that is not ours. @returns whether its disk serves it; else it is answered here */
  async admitted(): Promise<boolean> {
    const answer = await this.#asks.ask({ kind: 'open', ticket: this.ticket })
    if (answer.kind === 'done') return true
    this.#refused = new Refusal(answer.status, answer.message)
    return false
  }

  async answer(exchange: Exchange): Promise<void> {
    const refused = this.#refused
    this.#refused = undefined
    if (refused !== undefined) throw refused
    const resource = this.#resource
    if (resource === undefined || resource instanceof Refusal)
      throw resource ?? new Error('nothing was asked')
    switch (resource.kind) {
      case 'info':
        return exchange.reply(
          200,
          [JSON_TYPE, ...corsHeaders(exchange.head)],
          JSON.stringify({ version: PRODUCT_VERSION }),
        )
      case 'image':
        return exchange.reply(
          200,
          [['allow', 'OPTIONS,GET,PUT,PATCH'], JSON_TYPE, ...corsHeaders(exchange.head)],
          JSON.stringify({ features: FEATURES }),
        )
      case 'ticket':
        return this.#ticket(exchange, resource.ticket)
      case 'algorithms':
        return exchange.reply(200, [JSON_TYPE], JSON.stringify({ algorithms: ALGORITHMS }))
      default:
        throw new Refusal(404, 'there is no such resource')
    }
  }

  failed(_exchange: Exchange, error: unknown): Refusal {
    throw error
  }

  async #ticket(exchange: Exchange, ticket: string): Promise<void> {
    const { method } = exchange.head
    if (ticket === '' && method !== 'DELETE')
      throw badRequest('the ticket is missing: expected /tickets/TICKET')
    const answer = await this.#asks.ask(await question(exchange, ticket))
    if (answer.kind === 'refused') throw new Refusal(answer.status, answer.message)
    if (answer.body !== undefined) exchange.reply(200, [JSON_TYPE], JSON.stringify(answer.body))
    else exchange.reply(method === 'DELETE' ? 204 : 200)
  }
}

async function question(exchange: Exchange, ticket: string): Promise<Question> {
  switch (exchange.head.method) {
    case 'PUT':
      return { kind: 'put', spec: parseTicket(await exchange.bodyText(), ticket) }
    case 'PATCH':
      return { kind: 'extend', ticket, timeout: parseExtension(await exchange.bodyText()) }
    case 'DELETE':
      return { kind: 'remove', ticket: ticket === '' ? undefined : ticket }
    default:
      return { kind: 'show', ticket }
  }
}

/** `*` is the server itself, of which only this can be asked. */
function isServer(resource: Resource, method: string): boolean {
  return resource.kind === 'image' && resource.ticket === '*' && method === 'OPTIONS'
}
