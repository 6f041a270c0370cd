// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { formatNbdUri, type NbdAddress, parseNbdAddress } from '../../../protocol/nbd/uri.js'
import { text } from '../../helpers/nbd/texts.js'
import { holds } from '../../helpers/property.js'

const inet = (host: string, port = 10809) => ({ kind: 'inet', host, port }) as const
const unix = (path: string) => ({ kind: 'unix', path }) as const
const address = (
  server: NbdAddress['server'],
  exportName = '',
  rest: Partial<NbdAddress> = {},
): NbdAddress => ({
  server,
  exportName,
  tls: false,
  tlsQueries: {},
  ...rest,
})

/** What is written where it is not the same. */
const taken: readonly [text: string, address: NbdAddress, again?: string][] = [
  ['nbd://example.com/disk', address(inet('example.com'), 'disk')],
  ['nbd://example.com', address(inet('example.com')), 'nbd://example.com/'],
  ['nbd://example.com/', address(inet('example.com'))],
  ['nbd://example.com//disk', address(inet('example.com'), '/disk')],
  ['nbd://example.com/a/../b', address(inet('example.com'), 'a/../b')],
  ['nbd://example.com/hello%20world', address(inet('example.com'), 'hello world')],
  ['nbd://example.com/%C3%9F%23%3F%25', address(inet('example.com'), 'ß#?%')],
  ['nbd://example.com/a+b:c', address(inet('example.com'), 'a+b:c'), 'nbd://example.com/a%2Bb%3Ac'],
  ['nbd://example.com:10810/disk', address(inet('example.com', 10810), 'disk')],
  ['nbd://example.com:/disk', address(inet('example.com'), 'disk'), 'nbd://example.com/disk'],
  ['NBD:///disk', address(inet('localhost'), 'disk'), 'nbd://localhost/disk'],
  ['nbd://[::1]/disk', address(inet('::1'), 'disk')],
  ['nbd://[fe80::1%25eth0]:99/', address(inet('fe80::1%eth0', 99))],
  ['nbds://example.com/disk', address(inet('example.com'), 'disk', { tls: true })],
  [
    'nbds://alice@example.com/disk?tls-psk-file=/keys&tls-type=psk',
    address(inet('example.com'), 'disk', {
      tls: true,
      tlsQueries: { type: 'psk', username: 'alice', 'psk-file': '/keys' },
    }),
    'nbds://example.com/disk?tls-type=psk&tls-username=alice&tls-psk-file=/keys',
  ],
  ['nbd+unix:///disk?socket=/run/nbd.sock', address(unix('/run/nbd.sock'), 'disk')],
  ['nbd+unix:///?socket=nbd.sock', address(unix('nbd.sock'))],
  ['nbd+unix://?socket=nbd.sock', address(unix('nbd.sock')), 'nbd+unix:///?socket=nbd.sock'],
  ['nbd+unix:///?socket=%00/abstract', address(unix('\0/abstract'))],
  [
    'nbds+unix:///?socket=a%26b&tls-hostname=h&tls-verify-peer=0',
    address(unix('a&b'), '', { tls: true, tlsQueries: { hostname: 'h', 'verify-peer': '0' } }),
  ],
  ['nbd:localhost:10809', address(inet('localhost')), 'nbd://localhost/'],
  ['nbd:10.0.0.1:99:exportname=disk', address(inet('10.0.0.1', 99), 'disk'), 'nbd://10.0.0.1:99/disk'],
  ['nbd:[::1]:99:exportname=a:b', address(inet('::1', 99), 'a:b'), 'nbd://[::1]:99/a%3Ab'],
  ['nbd:unix:/run/nbd.sock', address(unix('/run/nbd.sock')), 'nbd+unix:///?socket=/run/nbd.sock'],
  ['nbd:unix:a:b:exportname=100%', address(unix('a:b'), '100%'), 'nbd+unix:///100%25?socket=a%3Ab'],
  [
    'nbd:unix:a:exportname=b:exportname=c',
    address(unix('a'), 'b:exportname=c'),
    'nbd+unix:///b%3Aexportname%3Dc?socket=a',
  ],
]

for (const [uri, expected, again = uri] of taken) {
  t.test(`an address is read: ${uri}`, async (t) => {
    t.same(parseNbdAddress(uri), expected)
    t.equal(formatNbdUri(expected), again)
  })
}

const refused: readonly [text: string, says: string][] = [
  ['', 'expected nbd://, nbds://, nbd+unix://, nbds+unix:// or nbd:'],
  ['disk.qcow2', 'expected nbd://, nbds://, nbd+unix://, nbds+unix:// or nbd:'],
  ['http://example.com/disk', 'expected nbd://, nbds://, nbd+unix://, nbds+unix:// or nbd:'],
  ['nbds:example.com', 'expected nbd://, nbds://, nbd+unix://, nbds+unix:// or nbd:'],
  ['nbd://example.com/a#b', '"#" in a name has to be written as %23'],
  ['nbd://example.com/%zz', 'export name "%zz", expected %-codes of UTF-8'],
  ['nbd://example.com/%ff', 'export name "%ff", expected %-codes of UTF-8'],
  ['nbd://example.com/a%00', 'NUL in the export name'],
  [`nbd://h/${'x'.repeat(4097)}`, 'export name of 4097 bytes, at most 4096'],
  ['nbd://example.com:0/', 'port "0", expected 1 to 65535'],
  ['nbd://example.com:65536/', 'port "65536", expected 1 to 65535'],
  ['nbd://a:b:c/', 'host "a:b:c", expected HOST, HOST:PORT or [V6]:PORT'],
  ['nbd://[::1/', 'host "[::1", expected HOST, HOST:PORT or [V6]:PORT'],
  ['nbd://example.com/?socket=a', 'query "socket" needs nbd+unix:// or nbds+unix://'],
  ['nbd+unix:///disk', 'query "socket" with a path is missing'],
  ['nbd+unix:///disk?socket=', 'query "socket" with a path is missing'],
  ['nbd+unix://host/disk?socket=a', 'host "host" with a Unix socket: expected three slashes'],
  ['nbd+unix:///disk?socket=a&socket=b', 'query "socket" is there twice'],
  ['nbd+unix:///disk?socket=a&sock=b', 'query "sock" is not known'],
  ['nbd:', 'expected nbd:HOST:PORT or nbd:unix:PATH'],
  ['nbd:localhost', 'expected nbd:HOST:PORT or nbd:unix:PATH'],
  ['nbd:localhost:nbd', 'port "nbd", expected 1 to 65535'],
  ['nbd:unix:', 'path of the socket is missing'],
  ['nbd:unix::exportname=a', 'path of the socket is missing'],
]
for (const [uri, says] of refused) {
  t.test(`what is no address is told in words: ${uri.slice(0, 60)}`, async (t) => {
    t.equal(parseNbdAddress(uri), `${JSON.stringify(uri)} is no NBD address: ${says}`)
  })
}

t.test('addresses come back as they were written', async (t) => {
  const some = text.filter((one) => one !== '')
  const server = fc.oneof(
    fc.record({ kind: fc.constant('unix' as const), path: some }),
    fc.record({
      kind: fc.constant('inet' as const),
      host: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
      port: fc.integer({ min: 1, max: 65535 }),
    }),
  )
  const tlsQueries = fc.record({ type: text, hostname: text, 'verify-peer': text }, { requiredKeys: [] })
  const any = fc.record({ server, exportName: text, tls: fc.boolean(), tlsQueries })
  const property = fc.property(any, (one) => {
    const back = parseNbdAddress(formatNbdUri(one))
    return typeof back !== 'string' && t.same(back, one)
  })
  holds(t, property, 300)
})

t.test('any text is an address or told in words', async (t) => {
  const parts = fc.constantFrom(
    'nbd',
    'nbd+unix',
    '://',
    ':',
    '/',
    '?',
    'socket=',
    '%',
    '@',
    '[',
    ']',
    '&',
    'a',
    '#',
    'unix:',
  )
  const property = fc.property(
    fc.oneof(
      fc.string(),
      fc.array(parts).map((all) => all.join('')),
    ),
    (any) => ['string', 'object'].includes(typeof parseNbdAddress(any)),
  )
  holds(t, property, 3000)
})
