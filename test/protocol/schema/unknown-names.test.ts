// SPDX-License-Identifier: Apache-2.0
// Members that the schema does not know are told before those that it misses.

import t from 'tap'
import type { JsonObject } from '../../../protocol/json-value.js'
import { blockdevOptions } from '../../../protocol/schema/nodes.js'
import { checkNames } from '../../../protocol/schema/unknown-names.js'
import { ArgumentError } from '../../../protocol/schema/validate.js'

const told: readonly { readonly value: JsonObject; readonly name: string }[] = [
  { value: { driver: 'file', filenam: 'a' }, name: 'filenam' },
  { value: { driver: 'qcow2', fil: { driver: 'file' } }, name: 'fil' },
  { value: { driver: 'qcow2', file: { driver: 'file', filenam: 'a' } }, name: 'file.filenam' },
  { value: { driver: 'raw', file: 'a', offest: 1, sise: 2 }, name: 'offest' },
  { value: { driver: 'raw', file: 'a', cache: { dircet: true } }, name: 'cache.dircet' },
  {
    value: { driver: 'nbd', server: { type: 'unix', paht: '/s' } },
    name: 'server.paht',
  },
]

for (const { value, name } of told)
  t.test(`${name} of ${JSON.stringify(value)} is told`, async (t) => {
    t.throws(() => checkNames(blockdevOptions, value), new ArgumentError(`Parameter '${name}' is unexpected`))
  })

const passed: readonly JsonObject[] = [
  { driver: 'file', filename: 'a' },
  { driver: 'qcow2', file: { driver: 'file', filename: 'a' }, backing: null },
  { driver: 'qcow2', file: 'a', backing: { driver: 'null-co', size: 5 }, cache: { direct: true } },
  { driver: 'nbd', server: { type: 'inet', host: 'h', port: '1' }, export: 'e' },
  { driver: 'raw' },
  { driver: 'no such driver', filenam: 'a' },
  { filenam: 'a' },
  { driver: 'raw', file: { driver: 5, filenam: 'a' } },
]

for (const value of passed)
  t.test(`nothing is said of names in ${JSON.stringify(value)}`, async (t) => {
    t.doesNotThrow(() => checkNames(blockdevOptions, value))
  })
