// SPDX-License-Identifier: Apache-2.0
// The name of a backing file in an image: whatever is cut off while it is changed, the image names the old or the new one.

import t from 'tap'
import {
  backingSteps,
  extensionSteps,
  type HeaderStep,
} from '../../../../../../daemon/iothread/block/drivers/qcow2/backing-header.js'
import { planLayout } from '../../../../../../daemon/iothread/block/drivers/qcow2/layout.js'
import { newHeader } from '../../../../../../daemon/iothread/block/drivers/qcow2/new-header.js'
import type { Qcow2Options } from '../../../../../../daemon/iothread/messages.js'
import { usualImage } from '../../../../../../daemon/iothread/messages-create.js'
import {
  ExtensionType,
  extensionText,
  formatHeader,
  parseHeader,
} from '../../../../../../protocol/qcow2/header.js'

const SECTOR = 512

function firstCluster(more: Partial<Qcow2Options>): Uint8Array {
  const options: Qcow2Options = { ...usualImage(1 << 20), ...more }
  return newHeader(options, planLayout(options, false), false)
}

function namesOf(bytes: Uint8Array): string {
  const header = parseHeader(bytes)
  return `${header.backingFile ?? '-'} ${extensionText(header, ExtensionType.backingFormat) ?? '-'}`
}

function states(old: Uint8Array, name: string | undefined, format: string | undefined) {
  const backing = name === undefined ? undefined : { name, format }
  return statesOf(old, backingSteps(parseHeader(old), old, backing))
}

/** The cluster after every write of one sector, in the order in which they become durable at the latest. */
function* statesOf(old: Uint8Array, steps: readonly HeaderStep[]) {
  let now = old.slice()
  const put = function* (bytes: Uint8Array, from: number, end: number) {
    for (let at = from; at < end; at += SECTOR) {
      now = now.slice()
      now.set(bytes.subarray(at, at + SECTOR), at)
      yield now
    }
  }
  for (const { bytes, beside } of steps) {
    yield* put(beside, SECTOR, beside.length)
    yield* put(bytes, 0, SECTOR)
    yield* put(bytes, SECTOR, bytes.length)
  }
}

const long = `/very/long/${'name/'.repeat(150)}of.qcow2`
for (const clusterSize of [1024, 4096, 65536])
  for (const version of [2, 3] as const)
    for (const [from, to] of [
      ['base.qcow2 qcow2', 'other qcow2'],
      ['base.qcow2 qcow2', 'base.raw raw'],
      ['base.qcow2 qcow2', '- -'],
      ['base.qcow2 -', `${clusterSize === 1024 ? 'short' : long} qcow2`],
      ['- -', 'base qcow2'],
    ] as const)
      t.test(
        `version ${version}, clusters of ${clusterSize}: ${from.slice(0, 20)} to ${to.slice(0, 20)}`,
        async (t) => {
          const [backingFile, backingFormat] = from
            .split(' ')
            .map((text) => (text === '-' ? undefined : text))
          const old = firstCluster({ version, clusterSize, backingFile, backingFormat })
          const [name, format] = to.split(' ').map((text) => (text === '-' ? undefined : text))
          let last = namesOf(old)
          t.equal(last, from)
          for (const bytes of states(old, name, format)) {
            const names = namesOf(bytes)
            if (names !== from && names !== to) t.fail(`neither of both: ${names}`)
            if (last === to && names !== to) t.fail('back to the old name')
            last = names
          }
          t.equal(last, to)
        },
      )

for (const clusterSize of [1024, 4096, 65536])
  for (const version of [2, 3] as const)
    for (const place of [0, clusterSize - 300])
      t.test(
        `version ${version}, clusters of ${clusterSize}: the name outlives another extension, from ${place}`,
        async (t) => {
          const name = 'b'.repeat(200)
          const made = firstCluster({ version, clusterSize, backingFile: name, backingFormat: 'raw' })
          let old = formatHeader(parseHeader(made), place)
          const type = ExtensionType.bitmaps
          const { extensions } = parseHeader(old)
          const data = (seed: number) => new Uint8Array(24).fill(seed)
          const lists = [
            [...extensions, { type, data: data(1) }],
            [...extensions, { type, data: data(2) }],
            extensions,
          ]
          for (const list of lists) {
            const header = parseHeader(old)
            const steps = extensionSteps(header, old, { ...header, extensions: list })
            for (const bytes of statesOf(old, steps)) {
              if (namesOf(bytes) !== `${name} raw`) t.fail('the name is torn')
              old = bytes
            }
            t.same(parseHeader(old).extensions, list)
          }
        },
      )

t.test('a name is changed again and again, in a cluster that has no room for many', async (t) => {
  let old = firstCluster({ clusterSize: 4096, backingFile: 'base', backingFormat: 'raw' })
  let from = namesOf(old)
  for (let turn = 0; turn < 20; turn++) {
    const name = `${turn}-`.padEnd(turn % 3 === 0 ? 300 : 900, 'x')
    const to = `${name} raw`
    for (const bytes of states(old, name, 'raw')) {
      const names = namesOf(bytes)
      if (names !== from && names !== to) t.fail(`neither of both in turn ${turn}: ${names.slice(0, 40)}`)
      old = bytes
    }
    t.equal(namesOf(old), to)
    from = to
  }
})

t.test('names of feature bits and other extensions are kept', async (t) => {
  const old = firstCluster({})
  const last = backingSteps(parseHeader(old), old, { name: 'base', format: 'qcow2' }).at(-1)
  const kept = (bytes: Uint8Array) =>
    parseHeader(bytes).extensions.filter(({ type }) => type !== ExtensionType.backingFormat)
  t.same(last && kept(last.bytes), kept(old))
})
