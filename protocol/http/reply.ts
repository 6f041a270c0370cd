// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP replies. Names are lower case, as the clients of the images API have always seen them.
// Source: RFC 9112, "Status Line"; RFC 9110, "Fields".

export type Header = readonly [name: string, value: string]

const reasons: Readonly<Record<number, string>> = {
  100: 'Continue',
  200: 'OK',
  204: 'No Content',
  206: 'Partial Content',
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  413: 'Content Too Large',
  414: 'URI Too Long',
  416: 'Range Not Satisfiable',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
  505: 'HTTP Version Not Supported',
}

export const CONTINUE = latin1('HTTP/1.1 100 Continue\r\n\r\n')
/** The end of a body in chunks. */
export const LAST_CHUNK = latin1('0\r\n\r\n')

/** What stands in every reply; the date is that of the reply. */
export interface Standing {
  readonly server: string
  readonly date: string
}

export function formatHead(
  status: number,
  { server, date }: Standing,
  headers: readonly Header[],
): Uint8Array {
  let text = `HTTP/1.1 ${status} ${reasons[status] ?? 'Unknown'}\r\nserver: ${server}\r\ndate: ${date}\r\n`
  for (const [name, value] of headers) text += `${name}: ${fieldValue(value)}\r\n`
  return latin1(`${text}\r\n`)
}

/** One chunk of a body whose length nobody knows yet. */
export function formatChunk(bytes: Uint8Array): Uint8Array[] {
  return [latin1(`${bytes.length.toString(16)}\r\n`), bytes, latin1('\r\n')]
}

/** Nothing in a value can end the line. */
function fieldValue(value: string): string {
  return value.replace(/[^\t\x20-\x7e\x80-\xff]/g, '?')
}

function latin1(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index)
  return bytes
}
