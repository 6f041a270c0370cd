// SPDX-License-Identifier: Apache-2.0
// Values of --chardev, --monitor and --socket: `key=value,key=value` with `,,` for a comma, the first key may be implied,
// a key alone means on. Flat, unlike --blockdev. Pure; texts follow the reference daemon where it has one.

import { isIdentifier } from './common/identifier.js'
import { StartError } from './start-error.js'

export type ChardevSpec =
  | { readonly kind: 'stdio'; readonly id: string }
  | {
      readonly kind: 'socket'
      readonly id: string
      readonly address:
        | { readonly path: string }
        | { readonly host: string; readonly port: number }
        | { readonly fd: number }
      readonly server: boolean
      /** A server waits for its first client before the daemon is ready. */
      readonly wait: boolean
    }

export interface MonitorSpec {
  readonly chardev: string
  readonly id: string | undefined
}

export interface SocketSpec {
  readonly path: string
  /** Permission bits. */
  readonly mode: number
  readonly group: string | undefined
}

export function parseChardev(text: string): ChardevSpec {
  const options = new FlatOptions(text, 'backend')
  const backend = options.take('backend')
  const id = options.take('id')
  if (id === undefined || id === '') throw new StartError('chardev: no id specified')
  if (!isIdentifier(id)) throw new StartError("Parameter 'id' expects an identifier")
  if (backend !== 'stdio' && backend !== 'socket')
    throw new StartError(`'${backend ?? ''}' is not a valid char driver name`)
  if (backend === 'stdio') {
    options.flag('signal', true)
    options.end()
    return { kind: 'stdio', id }
  }
  const server = options.flag('server', false)
  const wait = options.flag('wait', server)
  const address = parseAddress(options)
  options.end()
  return { kind: 'socket', id, address, server, wait: server && wait }
}

function parseAddress(options: FlatOptions): (ChardevSpec & { kind: 'socket' })['address'] {
  const path = options.take('path')
  const host = options.take('host')
  const fd = options.take('fd')
  if ([path, host, fd].filter((one) => one !== undefined).length > 1)
    throw new StartError("None or one of 'path', 'fd' or 'host' option required.")
  if (path !== undefined) return { path }
  if (fd !== undefined) {
    if (!/^\d+$/.test(fd)) throw new StartError(`Unable to parse FD number '${fd}'`)
    return { fd: Number(fd) }
  }
  const port = options.take('port')
  if (host === undefined && port === undefined)
    throw new StartError("chardev: socket: no 'path', 'fd' or 'host' given")
  if (port === undefined) throw new StartError('chardev: socket: no port given')
  if (!/^\d+$/.test(port) || Number(port) > 65535) throw new StartError(`'${port}' is not a port number`)
  return { host: host ?? '', port: Number(port) }
}

export function parseMonitor(text: string): MonitorSpec {
  const options = new FlatOptions(text, 'chardev')
  const chardev = options.take('chardev')
  if (chardev === undefined || chardev === '') throw new StartError("Parameter 'chardev' is missing")
  const id = options.take('id')
  const mode = options.take('mode') ?? 'control'
  if (mode !== 'control') throw new StartError(`Parameter 'mode' does not accept value '${mode}'`)
  if (options.flag('pretty', false)) throw new StartError("'pretty' output is not supported")
  options.end((key) => `Parameter '${key}' is unexpected`)
  return { chardev, id }
}

export function parseSocket(text: string): SocketSpec {
  const options = new FlatOptions(text, 'path')
  const path = options.take('path')
  if (path === undefined || path === '') throw new StartError('a socket needs a path')
  const mode = options.take('mode') ?? '0600'
  if (!/^0?[0-7]{3}$/.test(mode)) throw new StartError(`'${mode}' is not a file mode such as 0660`)
  const group = options.take('group')
  options.end()
  return { path, mode: Number.parseInt(mode, 8), group }
}

class FlatOptions {
  readonly #values = new Map<string, string>()

  /** @param implied  key of the first part when it has none */
  constructor(text: string, implied: string) {
    const parts = text.match(/(?:[^,]|,,)+/g) ?? []
    for (const [index, part] of parts.entries()) {
      const plain = part.replaceAll(',,', ',')
      const equals = plain.indexOf('=')
      if (equals >= 0) this.#values.set(plain.slice(0, equals), plain.slice(equals + 1))
      else if (index === 0) this.#values.set(implied, plain)
      else this.#values.set(plain, 'on')
    }
  }

  take(key: string): string | undefined {
    const value = this.#values.get(key)
    this.#values.delete(key)
    return value
  }

  flag(key: string, absent: boolean): boolean {
    const value = this.take(key)
    if (value === undefined) return absent
    if (value === 'on' || value === 'yes' || value === 'true') return true
    if (value === 'off' || value === 'no' || value === 'false') return false
    throw new StartError(`Parameter '${key}' expects 'on' or 'off'`)
  }

  /** Nothing may be left. */
  end(text = (key: string) => `Invalid parameter '${key}'`): void {
    for (const key of this.#values.keys()) throw new StartError(text(key))
  }
}
