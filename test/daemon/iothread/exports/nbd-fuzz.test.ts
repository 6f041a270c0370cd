// SPDX-License-Identifier: Apache-2.0
// Damaged requests: whatever a client sends, the export goes on for others, its memory comes back and no descriptor stays.
// FUZZ_SECONDS says how long for each style of replies (default 3, 20 where CI is set), SEED repeats a run.

import t from 'tap'
import type { ReplyStyle } from '../../../../protocol/nbd/agreed.js'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { formatRequest } from '../../../../protocol/nbd/request.js'
import { newSeed, random } from '../../../helpers/graph.js'
import { mutate } from '../../../helpers/mutate.js'
import { pattern, Served, STYLES } from '../../../helpers/nbd/served.js'
import { leftOver, openDescriptors, socketPair } from '../../../native/descriptors.js'

const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 3 : 20))
t.setTimeout(STYLES.length * (seconds * 1000 + 30_000))
const SIZE = 4 << 20

type Random = (below: number) => number

/** Requests as a good client sends them, with their payloads. */
function stream(style: ReplyStyle, random: Random): Buffer {
  const parts: Uint8Array[] = []
  const kinds = Object.values(commands)
  for (let count = 1 + random(12); count > 0; count--) {
    const command = kinds[random(kinds.length)] ?? 0
    const flush = command === commands.FLUSH
    const offset = flush ? 0 : random(SIZE - 70_000)
    const length = flush ? 0 : 1 + random(random(4) === 0 ? 2 << 20 : 70_000)
    const write = command === commands.WRITE
    const flags = write && style === 'extended' ? commandFlags.PAYLOAD_LEN : 0
    parts.push(formatRequest({ command, flags, cookie: BigInt(count), offset, length }, style))
    if (write) parts.push(pattern(offset, length))
  }
  return Buffer.concat(parts)
}

// With the first server of a process libuv opens /dev/null, for when it runs out of descriptors.
t.before(async () => void (await socketPair(t)))

for (const style of STYLES)
  t.test(`${style}: damaged streams hurt nobody else`, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const pick = random(seed)
    const before = openDescriptors()
    await t.test('served', async (t) => {
      const served = await Served.open(t, { size: SIZE })
      const other = await served.client(style)
      const end = performance.now() + seconds * 1000
      let rounds = 0
      for (; performance.now() < end; rounds++) {
        const bytes = stream(style, pick)
        mutate(bytes, Math.max(8, Math.min(bytes.length & ~7, pick(3) === 0 ? 32 : bytes.length)), pick)
        const client = await served.client(style)
        // What comes back answers requests it does not know of.
        client.socket.removeAllListeners('data')
        if (pick(4) > 0) client.socket.resume()
        client.socket.write(bytes.subarray(0, 1 + pick(bytes.length)))
        if (pick(3) > 0) client.socket.end()
        else client.socket.destroy()
        if (rounds % 10 === 0 && (await other.read(0, 512)).error !== 0) t.fail(`round ${rounds}`)
        if (!client.socket.readableFlowing) client.socket.destroy()
      }
      await served.left(rounds)
      t.comment(`${rounds} clients`)
      const payload = pattern(3, 3 << 20)
      t.equal((await other.write(3, payload)).error, 0)
      t.ok((await other.read(3, payload.length)).data.equals(payload), 'the other client is served')
      other.socket.destroy()
      await served.remove()
    })
    t.strictSame(await leftOver(before), [], `seed ${seed}`)
  })
