// SPDX-License-Identifier: Apache-2.0
// What a request asks for: its target taken apart, and the methods each resource has. Names in targets are keys of tables
// and never paths of files.

import { badRequest, Refusal } from './refusal.js'

export type Service = 'remote' | 'local' | 'control'

export type Resource =
  /** `*` stands for the server itself. */
  | { readonly kind: 'image' | 'extents' | 'checksum'; readonly ticket: string }
  | { readonly kind: 'algorithms' | 'info' }
  /** Empty: all of them. */
  | { readonly kind: 'ticket'; readonly ticket: string }

export interface Target {
  readonly resource: Resource
  readonly query: ReadonlyMap<string, string>
}

const methods: Readonly<Record<Resource['kind'], readonly string[]>> = {
  image: ['OPTIONS', 'GET', 'PUT', 'PATCH'],
  extents: ['GET'],
  checksum: ['GET'],
  algorithms: ['GET'],
  info: ['GET'],
  ticket: ['GET', 'PUT', 'PATCH', 'DELETE'],
}

/**
 * @param text  a request target: /PATH[?QUERY]
 * @throws Refusal 404 for what is not there, 400 for codes that are none
 */
export function parseTarget(text: string, service: Service): Target {
  const mark = text.indexOf('?')
  const path = decoded(mark < 0 ? text : text.slice(0, mark), 'the path')
  const resource = service === 'control' ? controlResource(path) : imageResource(path, service)
  if (resource === undefined) throw new Refusal(404, 'there is no such resource')
  return { resource, query: mark < 0 ? new Map() : parseQuery(text.slice(mark + 1)) }
}

/** @throws Refusal 405 */
export function checkMethod(resource: Resource, method: string): void {
  const allowed = methods[resource.kind]
  if (allowed.includes(method)) return
  throw new Refusal(405, `the method is not allowed: expected ${allowed.join(', ')}`, [
    ['allow', allowed.join(',')],
  ])
}

/** @returns whether a switch of the query is on. @throws Refusal 400 */
export function yesOrNo(query: ReadonlyMap<string, string>, name: string, missing: boolean): boolean {
  const value = query.get(name)
  if (value === undefined) return missing
  if (value !== 'y' && value !== 'n') throw badRequest(`query ${name} is malformed: expected y or n`)
  return value === 'y'
}

function imageResource(path: string, service: Service): Resource | undefined {
  if (path === '/info/' || path === '/info') return service === 'remote' ? { kind: 'info' } : undefined
  if (!path.startsWith('/images/')) return undefined
  const rest = path.slice('/images/'.length)
  if (rest.endsWith('/checksum/algorithms')) return { kind: 'algorithms' }
  for (const kind of ['extents', 'checksum'] as const)
    if (rest.endsWith(`/${kind}`)) return { kind, ticket: named(rest.slice(0, -kind.length - 1)) }
  return { kind: 'image', ticket: named(rest) }
}

function controlResource(path: string): Resource | undefined {
  const rest = path.startsWith('/tickets/') ? path.slice('/tickets/'.length) : undefined
  return rest === undefined ? undefined : { kind: 'ticket', ticket: rest }
}

function named(ticket: string): string {
  if (ticket === '') throw badRequest('the ticket is missing: expected /images/TICKET')
  return ticket
}

function parseQuery(text: string): Map<string, string> {
  const query = new Map<string, string>()
  for (const part of text.split('&')) {
    if (part === '') continue
    const equals = part.indexOf('=')
    const name = decoded(equals < 0 ? part : part.slice(0, equals), 'the query')
    const value = decoded(equals < 0 ? '' : part.slice(equals + 1).replaceAll('+', ' '), 'the query')
    if (!query.has(name)) query.set(name, value)
  }
  return query
}

function decoded(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    throw new Refusal(400, `${what} is malformed: expected %-codes of UTF-8`, [], { cause: error })
  }
}
