// SPDX-License-Identifier: Apache-2.0
// A client of an NBD export: every command in every style, long transfers, many requests at once, and what a disk says.

import t from 'tap'
import { commandFlags, commands, transmissionFlags } from '../../../../protocol/nbd/constants.js'
import { nbdErrors } from '../../../../protocol/nbd/error-number.js'
import { pattern, Served, STYLES } from '../../../helpers/nbd/served.js'

const { FUA, DF, NO_HOLE, FAST_ZERO, REQ_ONE } = commandFlags
const MIB = 1 << 20

for (const style of STYLES) {
  t.test(`${style}: what is written is read, zeroed and discarded`, async (t) => {
    const served = await Served.open(t)
    const client = await served.client(style)
    for (const { name, offset, length } of [
      { name: 'a sector', offset: 512, length: 512 },
      { name: 'one byte at an odd place', offset: 12_345, length: 1 },
      { name: 'across a piece', offset: 65_000, length: 70_001 },
      { name: 'the last byte', offset: served.size - 1, length: 1 },
    ]) {
      const bytes = pattern(offset, length)
      t.equal((await client.write(offset, bytes)).error, 0, `${name} is written`)
      const got = await client.read(offset, length)
      t.ok(got.error === 0 && got.data.equals(bytes), `${name} is read`)
    }
    const zero = { command: commands.WRITE_ZEROES, offset: 65_000, length: 35_001 }
    t.equal((await client.request(zero)).error, 0)
    t.equal((await client.request({ ...zero, offset: 512, length: 1, flags: NO_HOLE | FUA })).error, 0)
    t.equal((await client.request({ ...zero, offset: 0, length: 65_536, flags: FAST_ZERO })).error, 0)
    t.ok((await client.read(65_000, 35_001)).data.equals(Buffer.alloc(35_001)))
    t.ok((await client.read(100_001, 1)).data.equals(pattern(100_001, 1)), 'what is behind stays')
    t.equal((await client.request({ command: commands.TRIM, offset: 0, length: MIB })).error, 0)
    t.equal((await client.request({ command: commands.CACHE, offset: 0, length: 3 * MIB + 1 })).error, 0)
    t.equal((await client.request({ command: commands.FLUSH, offset: 0, length: 0 })).error, 0)
    client.disconnect()
    await client.ended()
    t.strictSame(await served.left(1), [undefined])
  })

  t.test(`${style}: transfers longer than a slot`, async (t) => {
    const served = await Served.open(t, { size: 40 * MIB })
    const client = await served.client(style)
    const bytes = pattern(777, 32 * MIB)
    t.equal((await client.write(777, bytes)).error, 0)
    const got = await client.read(777, bytes.length)
    t.ok(got.error === 0 && got.data.equals(bytes))
    const small = await Promise.all([3 * MIB + 5, 1, 2 * MIB].map((length) => client.read(778, length)))
    for (const { data } of small) t.ok(data.equals(bytes.subarray(1, 1 + data.length)))
  })

  t.test(`${style}: long reads and refusals that are asked for at once do not mix`, async (t) => {
    const served = await Served.open(t, { size: 16 * MIB })
    const client = await served.client(style)
    const bytes = pattern(0, 16 * MIB)
    t.equal((await client.write(0, bytes)).error, 0)
    const asks = Array.from({ length: 24 }, (_, index) => {
      // Every third is refused: nobody may read nothing.
      const [offset, length] = [index * 4099, [3 * MIB + index, 512, 0][index % 3] ?? 0]
      return { command: commands.READ, offset, length, flags: style !== 'simple' && index % 2 === 0 ? DF : 0 }
    })
    const prepared = asks.map((ask) => client.prepare(ask))
    client.socket.write(Buffer.concat(prepared.map((each) => each.bytes)))
    for (const [index, { answer }] of prepared.entries()) {
      const { error, data } = await answer
      const { offset, length } = asks[index] ?? { offset: 0, length: 0 }
      if (length === 0) t.equal(error, nbdErrors.EINVAL, `refusal ${index}`)
      else t.ok(error === 0 && data.equals(bytes.subarray(offset, offset + length)), `read ${index}`)
    }
  })

  t.test(`${style}: errors of the disk are errors of their requests`, async (t) => {
    const rules = [
      { op: 'read', nth: 1, errno: 5 },
      { op: 'write', nth: 1, errno: 28 },
      { op: 'zero', nth: 1, errno: 95 },
      { op: 'discard', nth: 1, errno: 5 },
      { op: 'flush', nth: 1, errno: 5 },
    ]
    const served = await Served.open(t, { rules })
    const client = await served.client(style)
    t.equal((await client.read(0, 512)).error, nbdErrors.EIO)
    t.equal((await client.write(0, pattern(0, 512))).error, nbdErrors.ENOSPC)
    const zero = { command: commands.WRITE_ZEROES, offset: 0, length: 512, flags: FAST_ZERO }
    t.equal((await client.request(zero)).error, nbdErrors.ENOTSUP)
    t.equal((await client.request({ command: commands.TRIM, offset: 0, length: 512 })).error, nbdErrors.EIO)
    t.equal((await client.request({ command: commands.FLUSH, offset: 0, length: 0 })).error, nbdErrors.EIO)
    t.equal((await client.read(0, 512)).error, 0, 'and then it goes on')
  })

  t.test(`${style}: what is not allowed is refused, and its payload passed over`, async (t) => {
    const served = await Served.open(t)
    const { size } = served
    const client = await served.client(style)
    const block = pattern(0, 4096)
    const cases = [
      { name: 'read beyond the end', command: commands.READ, offset: size, length: 1, error: 'EINVAL' },
      { name: 'zero beyond', command: commands.WRITE_ZEROES, offset: size - 1, length: 2, error: 'ENOSPC' },
      { name: 'trim beyond', command: commands.TRIM, offset: size - 1, length: 2, error: 'EINVAL' },
      { name: 'length 0', command: commands.READ, offset: 0, length: 0, error: 'EINVAL' },
      { name: 'flush of a range', command: commands.FLUSH, offset: 0, length: 1, error: 'EINVAL' },
      { name: 'unknown command', command: 77, offset: 0, length: 1, error: 'EINVAL' },
      { name: 'unknown flag', command: commands.READ, offset: 0, length: 1, flags: 0x80, error: 'EINVAL' },
    ] as const
    for (const { name, error, ...ask } of cases)
      t.equal((await client.request(ask)).error, nbdErrors[error], name)
    t.equal((await client.write(size - 1, block)).error, nbdErrors.ENOSPC, 'write beyond the end')
    t.equal((await client.write(0, pattern(0, 300_000), 0x80)).error, nbdErrors.EINVAL, 'write with a flag')
    t.equal((await client.read(0, 512)).error, 0, 'and then it goes on')
  })

  t.test(`${style}: a read-only export is not written`, async (t) => {
    const served = await Served.open(t, { export: { writable: false } })
    const { flags } = served.agreed(style)
    const client = await served.client(style, { flags: flags | transmissionFlags.READ_ONLY })
    t.equal((await client.write(0, pattern(0, 512))).error, nbdErrors.EPERM)
    const change = { offset: 0, length: 512 }
    t.equal((await client.request({ command: commands.TRIM, ...change })).error, nbdErrors.EPERM)
    t.equal((await client.request({ command: commands.WRITE_ZEROES, ...change })).error, nbdErrors.EPERM)
    t.equal((await client.request({ command: commands.FLUSH, offset: 0, length: 0 })).error, 0)
    t.ok((await client.read(0, 512)).data.equals(Buffer.alloc(512)))
  })

  t.test(`${style}: a read that fails behind its beginning`, async (t) => {
    const served = await Served.open(t, { rules: [{ op: 'read', nth: 2, errno: 5 }] })
    const client = await served.client(style)
    if (style === 'simple') {
      await t.rejects(client.read(0, 3 * MIB), 'the connection ends: the reply has begun')
      t.match(await served.left(1), [/behind the reply/])
    } else {
      t.match(await client.read(0, 3 * MIB), { error: nbdErrors.EIO, at: MIB, chunks: { length: 2 } })
      t.equal((await client.read(0, 3 * MIB)).error, 0)
    }
  })

  t.test(`${style}: a client that sends byte after byte`, async (t) => {
    const served = await Served.open(t)
    const client = await served.client(style)
    client.socket.setNoDelay?.()
    const payload = pattern(3, 40)
    const flags = style === 'extended' ? commandFlags.PAYLOAD_LEN : 0
    const write = client.prepare({ command: commands.WRITE, offset: 3, length: 40, payload, flags })
    const read = client.prepare({ command: commands.READ, offset: 3, length: 40 })
    for (const byte of Buffer.concat([write.bytes, read.bytes])) {
      client.socket.write(Uint8Array.of(byte))
      await new Promise((resolve) => setImmediate(resolve))
    }
    t.equal((await write.answer).error, 0)
    t.ok((await read.answer).data.length === 40)
  })

  t.test(`${style}: a client that ends its side gets all replies`, async (t) => {
    const served = await Served.open(t)
    const client = await served.client(style)
    const asks = Array.from({ length: 300 }, (_, index) =>
      client.prepare({ command: commands.READ, offset: index * 512, length: 4096 }),
    )
    client.socket.end(Buffer.concat(asks.map(({ bytes }) => bytes)))
    for (const { answer } of asks) t.equal((await answer).error, 0)
    await client.ended()
    t.strictSame(await served.left(1), [undefined])
  })
}

t.test('requests that came behind the handshake are done', async (t) => {
  const served = await Served.open(t)
  const twin = await served.client('simple')
  const read = { command: commands.READ, offset: 0, length: 512 }
  const asked = [read, { ...read, command: commands.DISC }].map((ask) => twin.prepare(ask).bytes)
  const client = await served.client('simple', {}, Buffer.concat(asked))
  // What it would have sent has the same cookie.
  t.equal((await client.prepare(read).answer).error, 0)
  await client.ended()
  t.strictSame(await served.left(1), [undefined])
})

for (const { name, rest } of [
  { name: 'takes leave', rest: Buffer.from('2560951300000002'.padEnd(56, '0'), 'hex') },
  { name: 'sends what is no request', rest: Buffer.alloc(64, 1) },
])
  t.test(`an export is removed after a client that ${name} with its handshake`, async (t) => {
    const served = await Served.open(t)
    const client = await served.client('simple', {}, rest)
    await client.ended()
    await served.left(1)
    await served.remove()
  })

t.test('with DF a read is one chunk, without it holes are told', async (t) => {
  const served = await Served.open(t)
  const client = await served.client('structured')
  await client.write(0, pattern(0, MIB))
  t.strictSame((await client.read(0, 3 * MIB)).chunks, ['OFFSET_DATA', 'OFFSET_HOLE', 'OFFSET_HOLE'])
  t.strictSame((await client.read(0, 3 * MIB, DF)).chunks, ['OFFSET_DATA'])
})

t.test('block status tells data and holes, and with REQ_ONE the first of them', async (t) => {
  for (const style of ['structured', 'extended'] as const) {
    const served = await Served.open(t)
    const client = await served.client(style)
    await client.write(65_536, pattern(0, 65_536))
    const ask = { command: commands.BLOCK_STATUS, offset: 0, length: served.size }
    const all = await client.request(ask)
    t.strictSame(all.status.get(0), [
      { length: 65_536, status: 3 },
      { length: 65_536, status: 0 },
      { length: served.size - 131_072, status: 3 },
    ])
    t.strictSame([...all.status.keys()], [0, 1])
    const one = await client.request({ ...ask, offset: 65_600, flags: REQ_ONE, length: served.size - 65_600 })
    t.strictSame(one.status.get(0), [{ length: 65_472, status: 0 }])
  }
})

t.test('block status without a context is refused', async (t) => {
  const served = await Served.open(t)
  const client = await served.client('structured', { contexts: [] })
  const answer = await client.request({ command: commands.BLOCK_STATUS, offset: 0, length: 512 })
  t.equal(answer.error, nbdErrors.EINVAL)
})

t.test('a write with an extended header needs no PAYLOAD_LEN: QEMU sends none', async (t) => {
  const served = await Served.open(t)
  const client = await served.client('extended')
  const payload = pattern(777, 3 * MIB)
  const { error } = await client.request({
    command: commands.WRITE,
    offset: 777,
    length: payload.length,
    payload,
  })
  t.equal(error, 0)
  t.ok((await client.read(777, payload.length)).data.equals(payload))
})
