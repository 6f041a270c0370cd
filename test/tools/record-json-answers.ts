// SPDX-License-Identifier: Apache-2.0
// Records what a QMP server answers to the inputs of json-cases.ts, for test/protocol/json-answers.json.
// Run by hand: node .build/test/tools/record-json-answers.js SOCKET > test/protocol/json-answers.json
// The fixture in the tree comes from qemu-storage-daemon 10.0.13.

import { connect } from 'node:net'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import { isJsonObject, type JsonValue } from '../../protocol/json-value.js'
import { answerOf, caseEnd, endId, type RecordedCase } from './json-answers.js'
import { jsonCases } from './json-cases.js'

/** One connection for each input: nothing of one case reaches the next. */
function ask(path: string, input: string): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    const stream = new JsonStream()
    const answers: string[] = []
    const hear = (value: JsonValue): void => {
      if (!isJsonObject(value)) throw new Error(`unexpected message: ${toText(value)}`)
      if (value.QMP !== undefined) socket.write('{"execute":"qmp_capabilities"}')
      else if (value.return !== undefined && value.id === undefined) {
        socket.write(Buffer.from(input + caseEnd, 'latin1'))
      } else if (value.id === endId) socket.end(() => resolve(answers))
      else answers.push(answerOf(value))
    }
    socket.on('error', reject)
    socket.on('data', (bytes) => {
      for (const item of stream.push(bytes)) {
        if (item.kind === 'error') reject(new Error(item.desc))
        else hear(item.value)
      }
    })
  })
}

const path = process.argv[2]
if (path === undefined) throw new Error('usage: record-json-answers SOCKET')
const recorded: RecordedCase[] = []
for (const input of jsonCases()) recorded.push({ input, answers: await ask(path, input) })
process.stdout.write(`[\n${recorded.map((one) => JSON.stringify(one)).join(',\n')}\n]\n`)
