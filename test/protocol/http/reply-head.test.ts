// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { parseReplyHead } from '../../../protocol/http/reply-head.js'

const cases = [
  {
    name: 'a part of an image',
    head: 'HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nContent-Range: bytes 0-11/24\r\n\r\n',
    expected: { status: 206, length: 12, keepAlive: true },
  },
  {
    name: 'no reason, spaces around a value',
    head: 'HTTP/1.1 200\r\ncontent-length:  0 \r\n\r\n',
    expected: { status: 200, length: 0, keepAlive: true },
  },
  {
    name: 'a server that closes',
    head: 'HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 1\r\n\r\n',
    expected: { status: 200, length: 1, keepAlive: false },
  },
  {
    name: 'HTTP/1.0',
    head: 'HTTP/1.0 200 OK\ncontent-length: 1\n\n',
    expected: { status: 200, length: 1, keepAlive: false },
  },
  {
    name: 'HTTP/1.0 that keeps the connection',
    head: 'HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n',
    expected: { status: 200, length: 1, keepAlive: true },
  },
  {
    name: 'no length',
    head: 'HTTP/1.1 200 OK\r\n\r\n',
    expected: { status: 200, length: undefined, keepAlive: true },
  },
  {
    name: 'chunks',
    head: 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n',
    expected: { status: 200, length: undefined, keepAlive: false },
  },
  {
    name: 'one length twice',
    head: 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n',
    expected: { status: 200, length: 5, keepAlive: true },
  },
  { name: 'two lengths', head: 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n' },
  { name: 'a length that is none', head: 'HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n' },
  { name: 'a folded line', head: 'HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n' },
  { name: 'a line without a name', head: 'HTTP/1.1 200 OK\r\n: b\r\n\r\n' },
  { name: 'another protocol', head: 'SSH-2.0-OpenSSH\r\n\r\n' },
  { name: 'another version', head: 'HTTP/2 200\r\n\r\n' },
  { name: 'nothing', head: '' },
]

for (const { name, head, expected } of cases)
  t.test(name, (t) => {
    t.strictSame(parseReplyHead(head), expected)
    t.end()
  })
