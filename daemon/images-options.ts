// SPDX-License-Identifier: Apache-2.0
// Values of --images and its like: text in, where to listen and with which credentials out. Pure.

import { resolve } from 'node:path'
import type { ListenSpec, TlsFiles } from './images/messages.js'
import { StartError } from './start-error.js'

export type ImagesOption = 'images' | 'images-tls' | 'images-local' | 'images-control'

/** Who may connect: images to whoever has a ticket, tickets to whoever may open the socket. */
const LOCAL_MODE = 0o666
const CONTROL_MODE = 0o660

/** @throws StartError */
export function parseImagesTls(text: string): TlsFiles {
  const found = new Map<string, string>()
  for (const part of text.split(',')) {
    const [, name = '', value = ''] = /^([^=]*)=(.*)$/s.exec(part) ?? []
    if (!['cert', 'key', 'client-ca'].includes(name) || value === '' || found.has(name))
      throw new StartError('expected cert=FILE,key=FILE[,client-ca=FILE]')
    found.set(name, value)
  }
  const [cert, key] = [found.get('cert'), found.get('key')]
  if (cert === undefined || key === undefined)
    throw new StartError('expected cert=FILE,key=FILE[,client-ca=FILE]')
  return { cert, key, clientCa: found.get('client-ca') }
}

/**
 * @param tls  credentials that were given before
 * @throws StartError
 */
export function parseImagesOption(
  option: Exclude<ImagesOption, 'images-tls'>,
  text: string,
  tls: TlsFiles | undefined,
): ListenSpec {
  if (option === 'images') return { service: 'remote', address: parseUrl(text, tls) }
  if (text === '') throw new StartError('expected the path of a socket')
  // Clients are told where it is.
  if (option === 'images-local')
    return { service: 'local', address: { kind: 'unix', path: resolve(text), mode: LOCAL_MODE } }
  const [, control = text, seconds] = /^(.+),remove-timeout=(.*)$/s.exec(text) ?? []
  if (seconds !== undefined && !/^\d{1,6}$/.test(seconds))
    throw new StartError('remove-timeout: expected a number of seconds')
  const address = { kind: 'unix', path: resolve(control), mode: CONTROL_MODE } as const
  return { service: 'control', address, ...(seconds !== undefined && { removeMs: Number(seconds) * 1000 }) }
}

function parseUrl(text: string, tls: TlsFiles | undefined): ListenSpec['address'] {
  const match = /^(https?):\/\/(?:\[([0-9A-Fa-f:.]+)\]|([^:/?#[\]@]+)):(\d{1,5})\/?$/.exec(text)
  const port = Number(match?.[4])
  if (match === null || port > 65535) throw new StartError('expected http://HOST:PORT or https://HOST:PORT')
  const secure = match[1] === 'https'
  if (secure && tls === undefined) throw new StartError('https needs --images-tls before it')
  return { kind: 'tcp', host: match[2] ?? match[3] ?? '', port, tls: secure ? tls : undefined }
}
