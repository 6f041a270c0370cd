// SPDX-License-Identifier: Apache-2.0
// `blockferry ticket`: adds, shows, extends and removes tickets of a daemon that serves images over HTTP.

import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import { lookAtImage, statOf } from '../mirror-request.js'
import { failed, usage } from '../status.js'
import { isExportName, pathNamed } from '../storage.js'
import { HttpServer } from './http.js'

export interface TicketOptions {
  /** The daemon's socket for tickets. */
  readonly control: string
}

export interface AddOptions extends TicketOptions {
  readonly id?: string
  readonly size?: number
  readonly ops: string
  readonly timeout: number
  readonly sparse: boolean
  readonly filename?: string
}

/** Prints the id: whoever knows it may do what the ticket allows. */
export async function addTicket(image: string, options: AddOptions): Promise<void> {
  const { id = randomUUID(), ops, timeout, sparse, filename } = options
  const size = options.size ?? (await sizeOf(image))
  if (size === undefined) throw failed(`the size of '${image}' is not known: give --size`)
  await send(options, 'PUT', id, {
    ...{ uuid: id, size, ops: ops.split(','), timeout, sparse },
    ...{ url: urlOf(image), ...(filename !== undefined && { filename }) },
  })
  process.stdout.write(`${id}\n`)
}

export async function showTicket(id: string, options: TicketOptions): Promise<void> {
  process.stdout.write(`${JSON.stringify(JSON.parse(await send(options, 'GET', id)), undefined, 2)}\n`)
}

export async function extendTicket(id: string, timeout: number, options: TicketOptions): Promise<void> {
  await send(options, 'PATCH', id, { timeout })
}

/**
 * Returns when nothing is written under it any more.
 * @throws CliError also where there is no such ticket: to the service that is a success, but who mistyped an id is not to
 * believe that the ticket is gone
 */
export async function removeTicket(id: string, options: TicketOptions): Promise<void> {
  await send(options, 'GET', id)
  await send(options, 'DELETE', id)
}

async function send({ control }: TicketOptions, method: string, id: string, body?: object): Promise<string> {
  // Without an id a DELETE is about all tickets.
  if (id === '') throw usage('a ticket needs an id, but it is empty')
  const path = `/tickets/${encodeURIComponent(id)}`
  return HttpServer.onSocket(control).text({ method, path, ...(body && { body: JSON.stringify(body) }) })
}

/** Where the image is, as the daemon is to be told. */
function urlOf(image: string): string {
  return isExportName(image) ? image : `file://${resolve(pathNamed(image))}`
}

/** @returns undefined where only who opens it can tell. @throws CliError for what is no image */
async function sizeOf(image: string): Promise<number | undefined> {
  if (isExportName(image)) return undefined
  const { kind, path } = await lookAtImage(image)
  const stats = kind === 'file' ? await statOf(path) : 'missing'
  return stats === 'missing' ? undefined : stats.size
}
