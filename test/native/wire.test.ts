// SPDX-License-Identifier: Apache-2.0
// The wire: bytes in order and told when they went, in whatever parts the kernel takes them; ends, resets, handing on, and
// being closed from its own callbacks. Nothing of it stays open.

import { once } from 'node:events'
import t, { type Test } from 'tap'
import { duplicate } from '../../native/descriptors.js'
import { Wire, type WireUser } from '../../native/wire.js'
import { pattern } from '../helpers/nbd/served.js'
import { leftOver, openDescriptors, type SocketPair, socketPair } from './descriptors.js'

const EAGAIN = -11
const KINDS = ['unix', 'tcp'] as const

interface Calls {
  readable?: (wire: Wire) => void
  drained?: (wire: Wire) => void
  failed?: (wire: Wire, result: number) => void
}

interface Made {
  readonly wire: Wire
  readonly peer: SocketPair['peer']
  /** Names of the calls so far. */
  readonly heard: string[]
}

/** A wire over one end of a connection, closed with the test. */
async function wireOf(t: Test, calls: Calls = {}, kind: 'unix' | 'tcp' = 'unix'): Promise<Made> {
  const { mine, peer, fd } = await socketPair(t, kind)
  const own = duplicate(fd)
  mine.destroy()
  await once(mine, 'close')
  const heard: string[] = []
  const user: WireUser = {
    readable: () => {
      heard.push('readable')
      calls.readable?.(wire)
    },
    drained: () => {
      heard.push('drained')
      calls.drained?.(wire)
    },
    failed: (result) => {
      heard.push(`failed ${result}`)
      calls.failed?.(wire, result)
    },
  }
  const wire = new Wire(own, user)
  t.teardown(() => wire.close())
  return { wire, peer, heard }
}

async function turns(count = 30): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

async function until(seen: () => boolean): Promise<void> {
  while (!seen()) await turns(1)
}

function collect(peer: SocketPair['peer']): Promise<Buffer> {
  const parts: Buffer[] = []
  peer.on('data', (part: Buffer) => parts.push(part))
  return once(peer, 'end').then(() => Buffer.concat(parts))
}

for (const kind of KINDS) {
  t.test(`${kind}: what is put arrives in order, and each is told once when it went`, async (t) => {
    const { wire, peer, heard } = await wireOf(t, {}, kind)
    const sent: number[] = []
    const sizes = [0, 1, 28, 1 << 20, 0, 3, 5 << 20, 70_000, 1]
    const pieces = sizes.map((size, index) => pattern(index, size, index))
    for (const [index, piece] of pieces.entries()) wire.put(piece, () => sent.push(index))
    t.strictSame(sent, [], 'nothing goes before flush()')
    wire.flush()
    t.ok(wire.waiting > 0, 'the kernel takes a part')
    t.ok(sent.length < pieces.length)
    const got = collect(peer)
    await until(() => heard.includes('drained'))
    t.strictSame(sent, [...pieces.keys()])
    t.equal(wire.waiting, 0)
    t.equal(wire.end(), 0)
    t.ok((await got).equals(Buffer.concat(pieces)))
  })

  t.test(`${kind}: what the peer reset fails, and everything queued is told`, async (t) => {
    const { wire, peer, heard } = await wireOf(t, { failed: (wire) => wire.close() }, kind)
    let told = 0
    for (let index = 0; index < 20; index++) wire.put(Buffer.alloc(1 << 20), () => told++)
    wire.flush()
    if (kind === 'tcp') peer.resetAndDestroy()
    else peer.destroy()
    await until(() => wire.closed)
    t.match(heard.at(-1), /^failed -(32|104)$/)
    t.equal(told, 20)
    t.equal(wire.waiting, 0)
    t.equal(wire.receive(new Uint8Array(1), 0, 1), -9)
  })

  t.test(`${kind}: a peer that ends its side is told all the same`, async (t) => {
    let end: number | undefined
    const { wire, peer } = await wireOf(
      t,
      {
        readable: (wire) => {
          end = wire.receive(new Uint8Array(9), 0, 9)
          wire.want(false)
        },
      },
      kind,
    )
    wire.want(true)
    peer.end()
    await until(() => end !== undefined)
    t.equal(end, 0)
    const got = collect(peer)
    wire.put(Buffer.from('answer'))
    wire.flush()
    wire.close()
    t.equal((await got).toString(), 'answer')
  })

  t.test(`${kind}: who closes ends the connection, whoever has a copy of the socket`, async (t) => {
    const { mine, peer, fd } = await socketPair(t, kind)
    const wire = new Wire(duplicate(fd), {
      readable: () => undefined,
      drained: () => undefined,
      failed: () => undefined,
    })
    wire.put(Buffer.from('the last'))
    wire.flush()
    wire.close()
    t.equal((await collect(peer)).toString(), 'the last')
    t.notOk(mine.destroyed)
  })

  t.test(`${kind}: wires leave no descriptor`, async (t) => {
    const before = openDescriptors()
    await t.test('many', async (t) => {
      for (let round = 0; round < 20; round++) {
        const { wire, peer } = await wireOf(t, {}, kind)
        wire.put(Buffer.alloc(4 << 20))
        wire.flush()
        if (round % 2 === 0) peer.destroy()
        wire.close()
        wire.close()
        peer.destroy()
      }
    })
    t.strictSame(await leftOver(before), [])
  })
}

t.test('only what was asked for is received', async (t) => {
  const { wire, peer, heard } = await wireOf(t)
  peer.write('0123456789')
  await turns()
  t.strictSame(heard, [], 'nothing is told that is not wanted')
  wire.want(true)
  await until(() => heard.length > 0)
  wire.want(false)
  const bytes = new Uint8Array(8)
  t.equal(wire.receive(bytes, 2, 5), 3)
  t.equal(Buffer.from(bytes).toString('latin1'), '\0\x00012\0\0\0')
  t.equal(wire.receive(bytes, 0, 8), 7)
  t.equal(wire.receive(bytes, 0, 8), EAGAIN)
  for (const [from, to] of [
    [3, 3],
    [4, 3],
    [0, 9],
  ] as const)
    t.equal(wire.receive(bytes, from, to), -22)
})

t.test('a connection is handed on at any byte', async (t) => {
  const { wire, peer } = await wireOf(t)
  peer.write('one two')
  wire.want(true)
  await turns()
  const bytes = new Uint8Array(4)
  t.equal(wire.receive(bytes, 0, 4), 4)
  const fd = wire.release()
  t.ok(fd >= 0)
  t.ok(wire.closed)
  t.equal(wire.release(), -9, 'once')
  const heard: string[] = []
  const next = new Wire(fd, {
    readable: () => heard.push('readable'),
    drained: () => undefined,
    failed: () => undefined,
  })
  t.teardown(() => next.close())
  next.want(true)
  await until(() => heard.length > 0)
  t.equal(next.receive(bytes, 0, 4), 3)
  t.equal(Buffer.from(bytes.subarray(0, 3)).toString(), 'two')
  peer.end()
})

t.test('a wire may be closed from each of its calls', async (t) => {
  const close = (wire: Wire) => wire.close()
  await t.test('readable', async (t) => {
    const { wire, peer, heard } = await wireOf(t, { readable: close })
    wire.want(true)
    peer.write('x')
    await until(() => wire.closed)
    await turns()
    t.strictSame(heard, ['readable'])
  })
  await t.test('drained', async (t) => {
    const { wire, peer, heard } = await wireOf(t, { drained: close })
    wire.put(Buffer.alloc(4 << 20))
    wire.want(true)
    wire.flush()
    peer.write('x')
    peer.resume()
    await until(() => wire.closed)
    await turns()
    t.equal(heard.filter((each) => each === 'drained').length, 1)
  })
  await t.test('sent', async (t) => {
    const { wire, peer, heard } = await wireOf(t)
    const told: string[] = []
    wire.put(Buffer.alloc(10), () => {
      told.push('first')
      wire.close()
    })
    wire.put(Buffer.alloc(4 << 20), () => told.push('second'))
    wire.flush()
    t.strictSame(told.sort(), ['first', 'second'])
    t.strictSame(heard, [])
    wire.put(Buffer.alloc(1), () => told.push('late'))
    t.ok(told.includes('late'), 'what is put into a closed wire is told at once')
    peer.resume()
  })
})

t.test('what is put by a call that something was sent goes too', async (t) => {
  const { wire, peer, heard } = await wireOf(t)
  const got = collect(peer)
  wire.put(Buffer.alloc(3 << 20, 1), () => {
    wire.put(Buffer.alloc(3 << 20, 2), () => wire.end())
    wire.flush()
  })
  wire.flush()
  const bytes = await got
  t.ok(bytes.equals(Buffer.concat([Buffer.alloc(3 << 20, 1), Buffer.alloc(3 << 20, 2)])))
  t.notOk(heard.some((each) => each.startsWith('failed')))
})

t.test('a peer that reads as fast as we write does not keep the loop', async (t) => {
  const { wire, peer } = await wireOf(t)
  peer.resume()
  let sent = 0
  const more = () => {
    if (++sent < 200) wire.put(Buffer.alloc(64), more)
  }
  wire.put(Buffer.alloc(64), more)
  wire.flush()
  t.equal(sent, 16, 'in one turn')
  await until(() => sent === 200)
})

t.test('a number that is no descriptor is refused', async (t) => {
  const user = { readable: () => undefined, drained: () => undefined, failed: () => undefined }
  t.throws(() => new Wire(1_000_000, user), { message: 'cannot watch the socket' })
})
