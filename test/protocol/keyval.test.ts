// SPDX-License-Identifier: Apache-2.0
// Option strings: what they mean, and the reference daemon's texts (recorded from its command line).

import t from 'tap'
import { optionValue, parseKeyval } from '../../protocol/keyval.js'
import { commands } from '../../protocol/schema/index.js'
import { required, size, struct } from '../../protocol/schema/types.js'
import { ArgumentError } from '../../protocol/schema/validate.js'

const blockdev = commands['blockdev-add'].arguments
const object = commands['object-add'].arguments

const parsed = [
  { name: 'keys and values', text: 'a=1,b=two', value: { a: '1', b: 'two' } },
  { name: 'a doubled comma is one', text: 'a=1,,2,b=,,', value: { a: '1,2', b: ',' } },
  { name: 'an empty value', text: 'a=,b=', value: { a: '', b: '' } },
  { name: 'values may hold equal signs', text: 'a=b=c', value: { a: 'b=c' } },
  { name: 'the first part may lack its key', text: 'file,a=1', value: { driver: 'file', a: '1' } },
  { name: 'later values win', text: 'a=1,a=2', value: { a: '2' } },
  { name: 'dots nest', text: 'a.b=1,a.c.d=2', value: { a: { b: '1', c: { d: '2' } } } },
  { name: 'indices make lists', text: 'a.1=y,a.0=x', value: { a: ['x', 'y'] } },
  {
    name: 'lists of objects',
    text: 'a.0.b=1,a.0.c=2,a.1.b=3',
    value: { a: [{ b: '1', c: '2' }, { b: '3' }] },
  },
  { name: 'nothing', text: '', value: {} },
]
for (const { name, text, value } of parsed) {
  t.test(`parsing: ${name}`, (t) => {
    t.same(parseKeyval(text, 'driver'), value)
    t.end()
  })
}

const accepted = [
  {
    name: 'booleans and nested options',
    type: blockdev,
    text: 'driver=file,node-name=f,filename=/a,,b,read-only=on,cache.direct=off',
    value: {
      driver: 'file',
      'node-name': 'f',
      'read-only': true,
      cache: { direct: false },
      filename: '/a,b',
    },
  },
  {
    name: 'JSON',
    type: blockdev,
    text: '{"driver": "file", "filename": "/a,b", "read-only": true}',
    value: { driver: 'file', filename: '/a,b', 'read-only': true },
  },
  {
    name: 'a definition in place of a reference',
    type: blockdev,
    text: 'raw,file.driver=null-co,file.size=0x200',
    value: { driver: 'raw', file: { driver: 'null-co', size: 512 } },
  },
  {
    name: 'every word for a switch',
    type: blockdev,
    text: 'raw,file=f,read-only=y,auto-read-only=no,force-share=yes,cache.direct=false',
    value: {
      driver: 'raw',
      file: 'f',
      'read-only': true,
      'auto-read-only': false,
      'force-share': true,
      cache: { direct: false },
    },
  },
  { name: 'a reference', type: blockdev, text: 'raw,file=f', value: { driver: 'raw', file: 'f' } },
  {
    name: 'limits of a group',
    type: object,
    text: 'throttle-group,id=t,limits.bps-total=1048576',
    value: { 'qom-type': 'throttle-group', id: 't', limits: { 'bps-total': 1048576 } },
  },
]
for (const { name, type, text, value } of accepted) {
  t.test(`accepted: ${name}`, (t) => {
    t.same(optionValue(type, text, type === blockdev ? 'driver' : 'qom-type'), value)
    t.end()
  })
}

const refused: readonly (readonly [text: string, message: string])[] = [
  ['driver=file,node-name=x,filename=/x,read-only=maybe', "Parameter 'read-only' expects 'on' or 'off'"],
  ['driver=null-co,node-name=x,size=abc', "Parameter 'size' expects integer"],
  ['driver=null-co,node-name=x,size=1.5Q', "Parameter 'size' expects integer"],
  ['driver=null-co,node-name=x,latency-ns=5x', "Parameter 'latency-ns' expects integer"],
  ['null-co,node-name=x,bogus=1', "Parameter 'bogus' is unexpected"],
  ['null-co,node-name=x,cache.direct=1', "Parameter 'cache.direct' expects 'on' or 'off'"],
  ['null-co,node-name=x,cache=1', "Invalid parameter type for 'cache', expected: object"],
  ['null-co,node-name', "Expected '=' after parameter 'node-name'"],
  ['x=1,null-co', "Expected '=' after parameter 'null-co'"],
  ['=x', "Invalid parameter ''"],
  ['null-co,a..b=1', "Invalid parameter 'a..b'"],
  ['null-co,.b=1', "Invalid parameter '.b'"],
  ['null-co,1=1', "Invalid parameter '1'"],
  ['null-co,,x,node-name=x', "Invalid parameter ''"],
  ['null-co,node-name=x,cache.direct=on,cache=1', "Parameters 'cache.*' used inconsistently"],
  ['raw,node-name=x,file.driver=null-co,file=y', "Parameters 'file.*' used inconsistently"],
  ['[1]', "Parameter 'driver' does not accept value '[1]'"],
  ['12', "Parameter 'driver' does not accept value '12'"],
  ['', "Parameter 'driver' is missing"],
  ['{}', "Parameter 'driver' is missing"],
  ['{"driver":', 'JSON parse error, premature EOI'],
  ['{"driver":"null-co"', 'JSON parse error, premature EOI'],
  ['{"driver":"null-co"}{}', 'Expecting at most one JSON value'],
  ['{"driver":"null-co","read-only":"on"}', "Invalid parameter type for 'read-only', expected: boolean"],
  ['raw,node-name=x,size=100000000000000000000', "Parameter 'file' is missing"],
  ['raw,node-name=x,file.driver=null-co,file.size=1zz', "Parameter 'file.size' expects integer"],
  ['null-co,node_name=x', "Parameter 'node_name' is unexpected"],
  [
    'blkdebug,image=x,inject-error.0.event=none,inject-error.2.event=none',
    "Parameter 'inject-error.1' missing",
  ],
  [
    'blkdebug,image=x,inject-error.0.event=none,inject-error.0.errno=zz',
    "Parameter 'inject-error.0.errno' expects integer",
  ],
  [
    'blkdebug,image=x,inject-error.x.event=none',
    "Invalid parameter type for 'inject-error', expected: array",
  ],
  ['blkdebug,image=x,inject-error.0=none', "Invalid parameter type for 'inject-error.0', expected: object"],
  ['blkdebug,image=x,inject-error=none', "Invalid parameter type for 'inject-error', expected: array"],
]
for (const [text, message] of refused) {
  t.test(`refused: ${text}`, (t) => {
    t.throws(() => optionValue(blockdev, text, 'driver'), new ArgumentError(message))
    t.end()
  })
}

const withSize = struct('test', { size: required(size, 'A size.') })
const sizes = [
  { text: '512', bytes: 512 },
  { text: '64k', bytes: 65536 },
  { text: '1.5G', bytes: 1610612736 },
  { text: '10B', bytes: 10 },
  { text: '8T', bytes: 8796093022208 },
  { text: '0x1000', bytes: 4096 },
]
for (const { text, bytes } of sizes) {
  t.test(`sizes have suffixes: ${text}`, (t) => {
    t.same(optionValue(withSize, `size=${text}`), { size: bytes })
    t.end()
  })
}
for (const text of ['', '-1', '1.5', '1kk', '16E', 'k']) {
  t.test(`no size: '${text}'`, (t) => {
    t.throws(
      () => optionValue(withSize, `size=${text}`),
      new ArgumentError("Parameter 'size' expects a non-negative number below 2^64"),
    )
    t.end()
  })
}
