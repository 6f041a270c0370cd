// SPDX-License-Identifier: Apache-2.0
// The snapshot table of images in which qemu-img took snapshots.

import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import { parseSnapshot, type Snapshot } from '../../../protocol/qcow2/snapshots.js'
import { Image, MIB, noQemuImg } from './images.js'

const names = ['one', 'zweite Aufnahme', 'ŝi', 'x'.repeat(200)]

function tableOf(image: Image): { bytes: Buffer; count: number } {
  const { snapshotsOffset, snapshotCount } = image.header()
  return { bytes: image.bytes().subarray(snapshotsOffset), count: snapshotCount }
}

function parseAll(bytes: Uint8Array, count: number): Snapshot[] {
  const found: Snapshot[] = []
  for (let at = 0; found.length < count; ) {
    const parsed = parseSnapshot(bytes, at, found.length)
    if (parsed === undefined) throw new Error('the table ends early')
    found.push(parsed.snapshot)
    at = parsed.next
  }
  return found
}

for (const version of ['0.10', '1.1']) {
  t.test(`compat ${version}: snapshots are what qemu-img lists`, { skip: noQemuImg }, async (t) => {
    const image = new Image(t, [`compat=${version}`])
    for (const name of names) image.run('qemu-img', 'snapshot', '-c', name, 'disk.qcow2')
    const { bytes, count } = tableOf(image)
    const found = parseAll(bytes, count)
    t.same(
      found.map(({ name }) => name),
      names,
    )
    const listed = found.map((snapshot) => ({
      id: snapshot.id,
      name: snapshot.name,
      'date-sec': snapshot.seconds,
      'date-nsec': snapshot.nanoseconds,
      'vm-state-size': snapshot.vmStateSize,
    }))
    t.match(image.info().snapshots, listed)
    for (const { diskSize, l1Size, l1Offset, guestClock } of found) {
      t.equal(diskSize, 8 * MIB)
      t.equal(l1Size, 1)
      t.equal(l1Offset % 65536, 0)
      t.equal(guestClock, 0)
    }
  })
}

t.test('an entry that is cut off anywhere is incomplete, not wrong', { skip: noQemuImg }, async (t) => {
  const image = new Image(t)
  image.run('qemu-img', 'snapshot', '-c', 'one', 'disk.qcow2')
  const { bytes } = tableOf(image)
  const whole = parseSnapshot(bytes, 0, 0)
  const end = 40 + 24 + '1'.length + 'one'.length
  t.equal(whole?.next, 72)
  for (let length = 0; length < end; length++)
    t.equal(parseSnapshot(bytes.subarray(0, length), 0, 0), undefined)
  t.same(parseSnapshot(bytes.subarray(0, end), 0, 0), whole)
})

t.test('without extra data the state size has 32 bits and the disk size is not told', (t) => {
  const entry = Buffer.alloc(48)
  entry.writeUInt16BE(1, 12)
  entry.writeUInt16BE(2, 14)
  entry.writeUInt32BE(12345, 32)
  entry.write('7ab', 40)
  const { snapshot, next } = parseSnapshot(entry, 0, 0) ?? {}
  t.match(snapshot, { id: '7', name: 'ab', vmStateSize: 12345 })
  t.equal(snapshot?.diskSize, undefined)
  t.equal(next, 48)
  t.end()
})

t.test('more extra data than QEMU takes is refused', (t) => {
  const entry = Buffer.alloc(4096)
  entry.writeUInt32BE(1025, 36)
  t.throws(
    () => parseSnapshot(entry, 0, 7),
    new FormatError('Too much extra metadata in snapshot table entry 7'),
  )
  t.end()
})
