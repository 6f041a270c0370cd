// SPDX-License-Identifier: Apache-2.0
// What a node sees of who uses its file himself: who may, what calls back, and what is counted.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { Borrower, Loan, LoanCounts } from '../../../../daemon/iothread/block/loans.js'
import { testGraph } from '../../../helpers/graph.js'

const MIB = 1 << 20

class Somebody implements Borrower {
  called = 0
  done: LoanCounts = { reads: 0, readBytes: 0, writes: 0, writeBytes: 0, from: 0, to: 0 }
  callBack(): void {
    this.called++
  }
  counts(): LoanCounts {
    return this.done
  }
}

async function disk(t: Test, more: Record<string, unknown> = {}) {
  const g = testGraph(t)
  const filename = join(t.testdir(), 'disk.img')
  writeFileSync(filename, Buffer.alloc(MIB))
  const file = { driver: 'file', filename, 'node-name': 'file' }
  const node = await g.add({ driver: 'raw', 'node-name': 'disk', file, ...more })
  return { g, node, filename }
}

t.test('storage is lent where each of its bytes has its place in a file', async (t) => {
  const g = testGraph(t)
  const filename = join(t.testdir(), 'disk.img')
  writeFileSync(filename, Buffer.alloc(MIB + 100))
  const file = { driver: 'file', filename }
  const rules: unknown[] = []
  for (const [what, spec, length] of [
    ['a file', { ...file }, MIB + 100],
    ['raw', { driver: 'raw', file }, MIB + 100],
    ['raw upon raw', { driver: 'raw', file: { driver: 'raw', file, 'node-name': 'between' } }, MIB + 100],
    ['a window', { driver: 'raw', file, offset: 512 }, undefined],
    ['a part', { driver: 'raw', file, size: 512 }, undefined],
    ['what was guessed', { driver: 'raw', file, 'x-guessed': true }, undefined],
    ['a filter', { driver: 'x-inject', file, rules }, undefined],
    ['memory', { driver: 'x-memory', size: MIB }, undefined],
    ['detection of zeroes', { driver: 'raw', file, 'detect-zeroes': 'on' }, undefined],
  ] as const) {
    const node = await g.add({ 'node-name': 'n', ...spec })
    const loan = node.lend(new Somebody())
    t.equal(loan?.lent.length, length, what)
    loan?.back(undefined)
    await g.graph.remove('n')
  }
})

t.test('who has to hear of requests is not passed by', async (t) => {
  const { g, node } = await disk(t)
  for (const each of [node, g.graph.node('file')]) {
    const listener = each.addDirtyListener(() => undefined)
    t.equal(node.lend(new Somebody()), undefined, `a listener of ${each.name}`)
    listener[Symbol.dispose]()
    const hook = each.addBeforeWrite(async () => undefined)
    t.equal(node.lend(new Somebody()), undefined, `a hook of ${each.name}`)
    hook[Symbol.dispose]()
    const drained = await each.drain()
    t.equal(node.lend(new Somebody()), undefined, `a drained section of ${each.name}`)
    drained[Symbol.dispose]()
  }
  const loan = node.lend(new Somebody())
  t.ok(loan, 'and then it is lent')
  loan?.back(undefined)
})

t.test('who comes later calls back', async (t) => {
  const { g, node } = await disk(t)
  for (const each of [node, g.graph.node('file')]) {
    const [one, other] = [new Somebody(), new Somebody()]
    const loans = [node.lend(one), node.lend(other)] as Loan[]
    const calls = () => [one.called, other.called]
    const listener = each.addDirtyListener(() => undefined)
    t.strictSame(calls(), [1, 1], `a listener of ${each.name}`)
    listener[Symbol.dispose]()
    const hook = each.addBeforeWrite(async () => undefined)
    t.strictSame(calls(), [2, 2], `a hook of ${each.name}`)
    hook[Symbol.dispose]()
    let told = ''
    const status = each.status(0, 512).then(() => (told += 'status '))
    const drained = each.drain().then((section) => {
      told += 'drained'
      section[Symbol.dispose]()
    })
    t.strictSame(calls(), [4, 4], `status and a drained section of ${each.name}`)
    loans[0]?.back(undefined)
    await new Promise(setImmediate)
    t.equal(told, '', 'they wait for both')
    loans[1]?.back(undefined)
    await drained
    await status
    t.match(told, /drained/)
  }
})

t.test('what was written is no hole any more', async (t) => {
  const { g, node, filename } = await disk(t)
  const punched = await node.zero(0, MIB, { unmap: true, fast: false })
  t.equal(punched, undefined)
  t.equal((await node.status(0, MIB)).length, MIB)
  const borrower = new Somebody()
  const loan = node.lend(borrower)
  writeFileSync(filename, Buffer.alloc(4096, 7), { flag: 'r+' })
  borrower.done = { reads: 3, readBytes: 1536, writes: 1, writeBytes: 4096, from: 0, to: 4096 }
  t.match(node.stats, { reads: 3, readBytes: 1536, writes: 1, writeBytes: 4096, writeHighest: MIB })
  const status = node.status(0, MIB)
  t.equal(borrower.called, 1)
  loan?.back(undefined)
  t.match(await status, { kind: 'data' })
  t.equal(readFileSync(filename)[0], 7)
  for (const each of [node, g.graph.node('file')])
    t.match(each.stats, { reads: 3, readBytes: 1536, writes: 1, writeBytes: 4096 }, 'counted once')
})

t.test('who hears of changes by then hears where one was begun that nobody was told of', async (t) => {
  const { g, node } = await disk(t)
  const heard: string[] = []
  const loan = node.lend(new Somebody())
  const other = node.lend(new Somebody())
  for (const each of [node, g.graph.node('file')]) {
    each.addDirtyListener((offset, length) => heard.push(`${each.name} ${offset}+${length}`))
    each.bitmaps.add({ name: 'b', granularity: 512, persistent: false, recording: true })
  }
  let drained = false
  const drain = node.drain().then((section) => {
    drained = true
    t.strictSame(heard, ['file 1000+3000', 'disk 1000+3000'], 'before the node rests')
    section[Symbol.dispose]()
  })
  other?.back(undefined)
  await new Promise(setImmediate)
  t.strictSame([heard, drained], [[], false], 'nothing was begun by the other')
  loan?.back({ offset: 1000, length: 3000 })
  await drain
  for (const each of [node, g.graph.node('file')])
    t.equal(each.bitmaps.get('b').bits.bytes, 4096 - 512, `the bitmap of ${each.name} has it`)
})
