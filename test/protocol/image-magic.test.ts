// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { formatOf } from '../../protocol/image-magic.js'

const cases = [
  { name: 'qcow2 version 2', bytes: [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 2], format: 'qcow2' },
  { name: 'qcow2 version 3', bytes: [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3], format: 'qcow2' },
  { name: 'qcow2 of a version to come', bytes: [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 9], format: 'qcow2' },
  { name: 'the old qcow', bytes: [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 1], format: 'qcow' },
  { name: 'a cut-off magic number', bytes: [0x51, 0x46, 0x49], format: undefined },
  { name: 'a version that is cut off', bytes: [0x51, 0x46, 0x49, 0xfb, 0], format: 'qcow' },
  { name: 'vdi, deeper inside', bytes: [...Array(64).fill(1), 0x7f, 0x10, 0xda, 0xbe], format: 'vdi' },
  { name: 'nothing', bytes: [], format: undefined },
  { name: 'a boot sector', bytes: [0xeb, 0x63, 0x90, 0x10, 0x8e, 0xd0, 0xbc, 0], format: undefined },
]

for (const { name, bytes, format } of cases) {
  t.test(`${name} is ${format ?? 'no known format'}`, async (t) => {
    t.equal(formatOf(Uint8Array.from(bytes)), format)
  })
}

t.test('the version is read at its place also inside a larger buffer', async (t) => {
  const bytes = Uint8Array.from([9, 9, 9, 0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 9])
  t.equal(formatOf(bytes.subarray(3)), 'qcow2')
})
