// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { type MigrationAddress, parseMigrationUri } from '../../../protocol/migration/uri.js'

const taken: readonly [string, MigrationAddress][] = [
  ['unix:/run/vm.sock', { transport: 'socket', type: 'unix', path: '/run/vm.sock' }],
  ['unix:a:b', { transport: 'socket', type: 'unix', path: 'a:b' }],
  ['tcp:127.0.0.1:4444', { transport: 'socket', type: 'inet', host: '127.0.0.1', port: '4444' }],
  ['tcp::4444', { transport: 'socket', type: 'inet', host: '', port: '4444' }],
  ['tcp:[::1]:0', { transport: 'socket', type: 'inet', host: '::1', port: '0' }],
  ['vsock:2:99', { transport: 'socket', type: 'vsock', cid: '2', port: '99' }],
  ['fd:out', { transport: 'socket', type: 'fd', str: 'out' }],
  ['exec:cat > x', { transport: 'exec', args: ['/bin/sh', '-c', 'cat > x'] }],
  ['rdma:host:1', { transport: 'rdma', host: 'host', port: '1' }],
  ['file:', { transport: 'file', filename: '', offset: 0 }],
  ['file:/a,b', { transport: 'file', filename: '/a,b', offset: 0 }],
  ['file:/a,offset=12345', { transport: 'file', filename: '/a', offset: 12345 }],
  ['file:/a,offset=0x10', { transport: 'file', filename: '/a', offset: 16 }],
  ['file:/a,offset=4k', { transport: 'file', filename: '/a', offset: 4096 }],
]

const refused: readonly [string, string][] = [
  ['', 'unknown migration protocol: '],
  ['nosuch:x', 'unknown migration protocol: nosuch:x'],
  ['/just/a/path', 'unknown migration protocol: /just/a/path'],
  ['tcp:', "error parsing address ''"],
  ['tcp:host', "error parsing address 'host'"],
  ['tcp:h:1,ipv4=on', "error parsing address 'h:1,ipv4=on'"],
  ['vsock:2', "error parsing address '2'"],
  ['file:/a,offset=x', 'file URI has bad offset x: Invalid argument'],
  ['file:/a,offset=9999999999999999', 'file URI has bad offset 9999999999999999: Invalid argument'],
]

t.test('addresses are read as QEMU reads them', async (t) => {
  for (const [text, address] of taken) t.same(parseMigrationUri(text), address, text)
})

t.test('what is no address is told in words', async (t) => {
  for (const [text, words] of refused) t.equal(parseMigrationUri(text), words, text)
})
