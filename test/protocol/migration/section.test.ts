// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import {
  formatFooter,
  formatHead,
  type Head,
  type NamedHead,
  parseFooter,
  parseHead,
} from '../../../protocol/migration/section.js'
import { isVirtioMemEarly, ramStart, sectionRole } from '../../../protocol/migration/section-role.js'
import { be16, be32, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const named = (type: number, id: number, name: string, instance: number, version: number) =>
  bytesOf(type, be32(id), counted(name), be32(instance), be32(version))

const heads: readonly { name: string; bytes: Uint8Array; head: Head }[] = [
  { name: 'EOF', bytes: bytesOf(0), head: { kind: 'eof' } },
  { name: 'START of RAM', bytes: named(1, 2, 'ram', 0, 4), head: ramStart(2) },
  { name: 'a PART', bytes: bytesOf(2, be32(0x10001)), head: { kind: 'part', id: 0x10001 } },
  { name: 'an END', bytes: bytesOf(3, be32(0xffff_ffff)), head: { kind: 'end', id: 0xffff_ffff } },
  {
    name: 'a device',
    bytes: named(4, 7, '0000:00:1f.2/ich9_ahci', 3, 1),
    head: { kind: 'full', id: 7, name: '0000:00:1f.2/ich9_ahci', instance: 3, version: 1 },
  },
  {
    name: 'the description',
    bytes: bytesOf(6, be32(99431)),
    head: { kind: 'description', jsonLength: 99431 },
  },
  {
    name: 'a command',
    bytes: bytesOf(8, be16(11), be16(0)),
    head: { kind: 'command', command: { name: 'SWITCHOVER_START', payload: new Uint8Array() } },
  },
]
for (const { name, bytes, head } of heads) {
  t.test(`the head of ${name} is read from any prefix`, (t) => {
    t.same(parsesWhenWhole(t, bytes, parseHead), head)
    if ('id' in head) t.same(formatHead(head), bytes)
    t.end()
  })
}

const wrong = [
  { name: 'a subsection', bytes: bytesOf(5), says: 'found a subsection' },
  { name: 'another configuration', bytes: bytesOf(7), says: 'found a second configuration' },
  { name: 'a footer without a section', bytes: bytesOf(0x7e), says: 'found a footer' },
  { name: 'an unknown type', bytes: bytesOf(9), says: 'offset 70: found 0x9, expected start of a section' },
  { name: 'no name', bytes: bytesOf(1, be32(1), 0), says: 'name of a section at offset 75: found 0 bytes' },
  { name: 'a description of 1 byte', bytes: bytesOf(6, be32(1)), says: 'found 1, expected 2 to 16777216' },
  { name: 'a description of 16 MiB and one', bytes: bytesOf(6, be32(2 ** 24 + 1)), says: 'found 16777217' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`the head of a section is wrong: ${name}`, (t) => {
    t.throws(() => parseHead(bytes, 70), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a footer has to carry the id of its section', (t) => {
  const bytes = bytesOf(0x7e, be32(3))
  parsesWhenWhole(t, bytes, (some) => parseFooter(some, 3))
  t.same(formatFooter(3), bytes)
  t.throws(() => parseFooter(bytes, 4), {
    message: 'section id of a footer at offset 1: found 3, expected 4',
  })
  t.throws(() => parseFooter(bytesOf(0), 4), {
    message: 'footer of section 4 at offset 0: found 0x0, expected 0x7e',
  })
  t.end()
})

const start = (name: string): NamedHead => ({ kind: 'start', id: 5, name, instance: 0, version: 1 })
const full = (name: string): NamedHead => ({ ...start(name), kind: 'full' })

const roles: readonly { head: NamedHead; kind: string; says?: RegExp }[] = [
  { head: ramStart(1), kind: 'ram' },
  { head: start('dirty-bitmap'), kind: 'dirty-bitmap' },
  { head: full('0000:00:01.0/virtio-mem-device-early'), kind: 'virtio-mem' },
  { head: full('0000:00:01.0/virtio-mem-device'), kind: 'device' },
  { head: full('timer'), kind: 'device' },
  { head: start('block'), kind: 'refuse', says: /capability "block"/ },
  { head: start('0000:00:02.0/vfio'), kind: 'refuse', says: /0000:00:02.0\/vfio.*assigned device/ },
  { head: start('spapr/htab'), kind: 'refuse', says: /ppc/ },
  { head: start('s390-stattrib'), kind: 'refuse', says: /s390x/ },
  { head: start('new-thing'), kind: 'refuse', says: /section 5 "new-thing" begins while memory is sent/ },
]
for (const { head, kind, says } of roles) {
  t.test(`${head.kind.toUpperCase()} of ${head.name} is taken for ${kind}`, (t) => {
    const role = sectionRole(head)
    t.equal(role.kind, kind)
    if (says !== undefined) t.match(role, { reason: says })
    t.equal(isVirtioMemEarly(head.name), kind === 'virtio-mem')
    t.end()
  })
}

t.test('RAM that no QEMU loads is wrong', (t) => {
  t.throws(() => sectionRole({ ...ramStart(1), version: 3 }), { message: /version .*found 3, expected 4/ })
  t.throws(() => sectionRole({ ...ramStart(1), instance: 1 }), { message: /instance .*found 1, expected 0/ })
  t.throws(() => sectionRole({ ...ramStart(1), kind: 'full' }), { message: /found a FULL section/ })
  t.end()
})
