// SPDX-License-Identifier: Apache-2.0
// Lines of the shell become requests.

import t from 'tap'
import { requestOf, wordsOf } from '../../../daemon/cli/arguments.js'
import { toText } from '../../../protocol/json-text.js'

t.test('a line is cut at blanks outside quotes and brackets', async (t) => {
  const table: [string, string[]][] = [
    ['', []],
    ['  query-jobs  ', ['query-jobs']],
    ['a b=1\tc=d', ['a', 'b=1', 'c=d']],
    ['a {"b": [1, 2]}', ['a', '{"b": [1, 2]}']],
    [`a {'b': "x } y"}`, ['a', `{'b': "x } y"}`]],
    ['a f="my disk.img"', ['a', 'f=my disk.img']],
    ["a f=''", ['a', 'f=']],
    ['a {"b": "\\" }"} c', ['a', '{"b": "\\" }"}', 'c']],
  ]
  for (const [line, words] of table) t.same(wordsOf(line), words, line)
})

t.test('words become a request', async (t) => {
  const table: [string[], string][] = [
    [['query-jobs'], '{"execute": "query-jobs"}'],
    [['x', '{"a": 1}'], '{"execute": "x", "arguments": {"a": 1}}'],
    [['x', '{"a":', '1}'], '{"execute": "x", "arguments": {"a": 1}}'],
    [["{'execute': 'x', 'id': 7}"], '{"execute": "x", "id": 7}'],
    [['x', 'a=1', 'b=true', 'c=disk0'], '{"execute": "x", "arguments": {"a": 1, "b": true, "c": "disk0"}}'],
    [
      ['x', 'cache.direct=true', 'cache.no-flush=false'],
      '{"execute": "x", "arguments": {"cache": {"direct": true, "no-flush": false}}}',
    ],
    [['x', 'a=18446744073709551615'], '{"execute": "x", "arguments": {"a": 18446744073709551615}}'],
    [['x', 'a=[1, {"b": null}]'], '{"execute": "x", "arguments": {"a": [1, {"b": null}]}}'],
    [['x', 'a="7"'], '{"execute": "x", "arguments": {"a": "7"}}'],
    [['x', 'a=1 2'], '{"execute": "x", "arguments": {"a": "1 2"}}'],
    [['x', 'file=/a=b'], '{"execute": "x", "arguments": {"file": "/a=b"}}'],
  ]
  for (const [words, text] of table) t.equal(toText(requestOf(words)), text, words.join(' '))
})

t.test('words that make no request are usage errors', async (t) => {
  const table: [string[], RegExp][] = [
    [['x', 'y'], /^expected a JSON object or key=value, found 'y'$/],
    [['x', '=1'], /found '=1'/],
    [['x', 'a=1', 'a=2'], /^'a=2' was given before$/],
    [['x', 'a=1', 'a.b=2'], /^'a.b=2' names a member of something that is no object$/],
    [['x', '{"a": 1'], /^a JSON object is expected: \{"a": 1$/],
    [['x', '{"a": 1} 2'], /^a JSON object is expected/],
    [['{]'], /^JSON parse error, /],
  ]
  for (const [words, message] of table) {
    t.throws(() => requestOf(words), { name: 'CliError', status: 2, message }, words.join(' '))
  }
})
