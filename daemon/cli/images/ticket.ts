// SPDX-License-Identifier: Apache-2.0
// `blockferry ticket`: adds, shows, extends and removes tickets of a daemon that serves images over HTTP.

import { randomUUID } from 'node:crypto'
import { open } from 'node:fs/promises'
import { resolve } from 'node:path'
import { failed } from '../status.js'
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
  const isUrl = /^(file|nbd(\+unix)?):/.test(image)
  const size = options.size ?? (isUrl ? undefined : await sizeOf(image))
  if (size === undefined) throw failed(`the size of '${image}' is not known: give --size`)
  await send(options, 'PUT', id, {
    ...{ uuid: id, size, ops: ops.split(','), timeout, sparse },
    ...{ url: isUrl ? image : `file://${resolve(image)}`, ...(filename !== undefined && { filename }) },
  })
  process.stdout.write(`${id}\n`)
}

export async function showTicket(id: string, options: TicketOptions): Promise<void> {
  process.stdout.write(`${JSON.stringify(JSON.parse(await send(options, 'GET', id)), undefined, 2)}\n`)
}

export async function extendTicket(id: string, timeout: number, options: TicketOptions): Promise<void> {
  await send(options, 'PATCH', id, { timeout })
}

/** Returns when nothing is written under it any more. */
export async function removeTicket(id: string, options: TicketOptions): Promise<void> {
  await send(options, 'DELETE', id)
}

async function send({ control }: TicketOptions, method: string, id: string, body?: object): Promise<string> {
  const path = `/tickets/${encodeURIComponent(id)}`
  return HttpServer.onSocket(control).text({ method, path, ...(body && { body: JSON.stringify(body) }) })
}

/** Of a block device too, where the end is what can be read to. */
async function sizeOf(path: string): Promise<number | undefined> {
  const file = await open(path).catch((error: Error) => {
    throw failed(`cannot open '${path}': ${error.message}`, { cause: error })
  })
  try {
    const facts = await file.stat()
    return facts.isFile() ? facts.size : undefined
  } finally {
    await file.close()
  }
}
