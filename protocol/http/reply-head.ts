// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP/1 replies: text in, what a client needs to know of it out. Used by the command line, whose servers are
// those of the images API.
// Source: RFC 9112, "Status Line", "Message Body Length".

export interface ReplyHead {
  readonly status: number
  /** Bytes of the body; undefined: the reply does not say. */
  readonly length: number | undefined
  /** The server takes another request on this connection. */
  readonly keepAlive: boolean
}

/**
 * @param head  a whole head in Latin-1, with or without its empty line
 * @returns undefined for what is no such head, or says two things at once
 */
export function parseReplyHead(head: string): ReplyHead | undefined {
  const [first = '', ...lines] = head.split(/\r?\n/)
  const [, minor, status] = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: .*)?$/.exec(first) ?? []
  if (status === undefined) return undefined
  let length: number | undefined
  let keepAlive = minor === '1'
  for (const line of lines) {
    if (line === '') break
    const [, name = '', value = ''] = /^([^\s:]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
    if (name === '') return undefined
    const word = value.toLowerCase()
    switch (name.toLowerCase()) {
      case 'content-length': {
        if (!/^\d{1,15}$/.test(value) || (length !== undefined && length !== Number(value))) return undefined
        length = Number(value)
        break
      }
      // How long it is shows only its end.
      case 'transfer-encoding':
        return { status: Number(status), length: undefined, keepAlive: false }
      case 'connection':
        if (word === 'close') keepAlive = false
        if (word === 'keep-alive') keepAlive = true
        break
    }
  }
  return { status: Number(status), length, keepAlive }
}
