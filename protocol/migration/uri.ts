// SPDX-License-Identifier: Apache-2.0
// Addresses of migration as QEMU writes them: `unix:PATH`, `tcp:HOST:PORT`, `fd:NAME`, `file:PATH,offset=N`. Texts of the
// refusals are QEMU 10.0's, because managers show them.

/** As the `addr` of a migration channel. */
export type MigrationAddress =
  | { readonly transport: 'socket'; readonly type: 'unix'; readonly path: string }
  | { readonly transport: 'socket'; readonly type: 'inet'; readonly host: string; readonly port: string }
  | { readonly transport: 'socket'; readonly type: 'vsock'; readonly cid: string; readonly port: string }
  | { readonly transport: 'socket'; readonly type: 'fd'; readonly str: string }
  | { readonly transport: 'exec'; readonly args: readonly string[] }
  | { readonly transport: 'rdma'; readonly host: string; readonly port: string }
  | { readonly transport: 'file'; readonly filename: string; readonly offset: number }

/** @returns the address, or in words what is wrong with the text */
export function parseMigrationUri(text: string): MigrationAddress | string {
  const colon = text.indexOf(':')
  const rest = text.slice(colon + 1)
  switch (colon < 0 ? '' : text.slice(0, colon)) {
    case 'unix':
      return { transport: 'socket', type: 'unix', path: rest }
    case 'tcp':
      return inet(rest)
    case 'vsock': {
      const [cid = '', port] = rest.split(':')
      return port === undefined
        ? `error parsing address '${rest}'`
        : { transport: 'socket', type: 'vsock', cid, port }
    }
    case 'fd':
      return { transport: 'socket', type: 'fd', str: rest }
    case 'exec':
      return { transport: 'exec', args: ['/bin/sh', '-c', rest] }
    case 'rdma': {
      const address = inet(rest)
      if (typeof address === 'string' || address.type !== 'inet') return `error parsing address '${rest}'`
      return { transport: 'rdma', host: address.host, port: address.port }
    }
    case 'file':
      return file(rest)
    default:
      return `unknown migration protocol: ${text}`
  }
}

/** `HOST:PORT`, `[V6]:PORT`; options behind a comma are not taken. */
function inet(text: string): Extract<MigrationAddress, { transport: 'socket' }> | string {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:,]*)):([^:,]+)$/.exec(text)
  if (match === null) return `error parsing address '${text}'`
  return { transport: 'socket', type: 'inet', host: match[1] ?? match[2] ?? '', port: match[3] ?? '' }
}

function file(text: string): MigrationAddress | string {
  const at = text.lastIndexOf(',offset=')
  if (at < 0) return { transport: 'file', filename: text, offset: 0 }
  const digits = text.slice(at + ',offset='.length)
  const offset = sizeIn(digits)
  if (offset === undefined) return `file URI has bad offset ${digits}: Invalid argument`
  return { transport: 'file', filename: text.slice(0, at), offset }
}

/** Decimal or 0x…, with a suffix of bytes as QEMU takes it. */
function sizeIn(text: string): number | undefined {
  const match = /^(0x[0-9a-fA-F]+|\d+)([bBkKmMgGtT]?)$/.exec(text)
  if (match === null) return undefined
  const value = Number(match[1]) * 1024 ** 'bkmgt'.indexOf((match[2] || 'b').toLowerCase())
  return Number.isSafeInteger(value) ? value : undefined
}
