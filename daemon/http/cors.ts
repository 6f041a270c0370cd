// SPDX-License-Identifier: Apache-2.0
// What web pages of other origins are told: the console of a manager uploads images from the browser.
// Source: the Fetch standard, "CORS protocol".

import type { RequestHead } from '../../protocol/http/head.js'
import type { Header } from '../../protocol/http/reply.js'

const DAY = 86400

/** For OPTIONS, GET and PUT of images. */
export function corsHeaders({ method, headers }: RequestHead): Header[] {
  const more: Header[] = []
  if (headers.has('origin')) more.push(['access-control-allow-origin', '*'])
  if (headers.has('access-control-request-headers')) more.push(['access-control-allow-headers', '*'])
  if (headers.has('access-control-request-method'))
    more.push(['access-control-allow-methods', method === 'OPTIONS' ? 'OPTIONS,GET,PUT' : '*'])
  if (more.length > 0) more.push(['access-control-max-age', String(DAY)])
  return more
}
