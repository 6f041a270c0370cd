// SPDX-License-Identifier: Apache-2.0
// Values of --images and its like: what is understood, and what is refused.

import t from 'tap'
import { parseImagesOption } from '../../daemon/images-options.js'

t.test('the socket for tickets says how long their removal waits', async (t) => {
  const control = (text: string) => parseImagesOption('images-control', text, undefined)
  t.match(control('/run/a'), { service: 'control', address: { kind: 'unix', path: '/run/a', mode: 0o660 } })
  t.equal(control('/run/a').removeMs, undefined)
  t.match(control('/run/a,remove-timeout=0'), { address: { path: '/run/a' }, removeMs: 0 })
  t.match(control('/run/a,b,remove-timeout=90'), { address: { path: '/run/a,b' }, removeMs: 90_000 })
  for (const wrong of ['', '-1', '1.5', '1m', '10000000'])
    t.throws(() => control(`/run/a,remove-timeout=${wrong}`), /remove-timeout: expected a number of seconds/)
})

t.test('addresses are those of HTTP, and https needs credentials', async (t) => {
  const images = (text: string) => parseImagesOption('images', text, undefined)
  t.match(images('http://0.0.0.0:80'), { service: 'remote', address: { host: '0.0.0.0', port: 80 } })
  t.match(images('http://[::1]:0/'), { address: { host: '::1', port: 0 } })
  for (const wrong of ['', 'http://a', 'ftp://a:1', 'http://a:70000', 'http://a:1/x'])
    t.throws(() => images(wrong), /expected http:\/\/HOST:PORT/)
  t.throws(() => images('https://a:1'), /https needs --images-tls before it/)
  t.throws(() => parseImagesOption('images-local', '', undefined), /expected the path of a socket/)
})
