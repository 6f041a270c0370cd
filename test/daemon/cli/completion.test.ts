// SPDX-License-Identifier: Apache-2.0
// Completion from a schema.

import t from 'tap'
import { Completion } from '../../../daemon/cli/completion.js'
import { JsonStream } from '../../../protocol/json-stream.js'

const schema = `[
  {"name": "add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
  {"name": "query", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
  {"name": "quit", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
  {"name": "0", "meta-type": "object", "members": []},
  {"name": "1", "meta-type": "object", "tag": "driver",
   "members": [{"name": "driver", "type": "2"}, {"name": "node-name", "type": "str"},
               {"name": "ro", "type": "bool"}],
   "variants": [{"case": "file", "type": "3"}, {"case": "raw", "type": "4"}]},
  {"name": "2", "meta-type": "enum", "values": ["file", "raw"]},
  {"name": "3", "meta-type": "object", "members": [{"name": "filename", "type": "str"}]},
  {"name": "4", "meta-type": "object", "members": [{"name": "file", "type": "5"}]},
  {"name": "5", "meta-type": "alternate", "members": [{"type": "1"}, {"type": "str"}]},
  {"name": "str", "meta-type": "builtin", "json-type": "string"},
  {"name": "bool", "meta-type": "builtin", "json-type": "boolean"}
]`

const [item] = new JsonStream().push(new TextEncoder().encode(schema))

t.test('completion offers what the schema has at that place', async (t) => {
  const completion = new Completion(item?.kind === 'value' ? item.value : null)
  const table: [line: string, offers: string[], last: string][] = [
    ['', ['add ', 'query ', 'quit '], ''],
    ['qu', ['query ', 'quit '], 'qu'],
    ['query ', [], ''],
    ['unknown ', [], ''],
    ['add ', ['driver=', 'file.', 'filename=', 'node-name=', 'ro='], ''],
    ['add driver=raw f', ['file.', 'filename='], 'f'],
    ['add driver=', ['driver=file ', 'driver=raw '], 'driver='],
    ['add ro=t', ['ro=true '], 'ro=t'],
    ['add node-name=', [], 'node-name='],
    ['add file.dr', ['file.driver='], 'file.dr'],
    ['add file.file.driver=r', ['file.file.driver=raw '], 'file.file.driver=r'],
  ]
  for (const [line, offers, last] of table) t.same(completion.complete(line), [offers, last], line)
})
