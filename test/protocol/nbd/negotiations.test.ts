// SPDX-License-Identifier: Apache-2.0
// Both sides of a handshake against each other, in pieces and damaged.

import fc from 'fast-check'
import t from 'tap'
import type { ReplyStyle } from '../../../protocol/nbd/agreed.js'
import { ClientNegotiation, type ClientWishes } from '../../../protocol/nbd/client-negotiation.js'
import { ServerNegotiation, type TlsMode } from '../../../protocol/nbd/server-negotiation.js'
import type { NegotiationStep } from '../../../protocol/nbd/steps.js'
import { mutate } from '../../helpers/mutate.js'
import { disk, exportsOf, fed, meet, plain } from '../../helpers/nbd/negotiation.js'
import { holds } from '../../helpers/property.js'

const exports = exportsOf(disk, plain)
const styles: readonly ReplyStyle[] = ['simple', 'structured', 'extended']
const contextWishes = [[], ['base:allocation'], ['qemu:dirty-bitmap:b1', 'qemu:allocation-depth', 'x-none:y']]
const tlsWishes = ['none', 'optional', 'required'] as const
const tlsModes: readonly TlsMode[] = ['none', 'optional', 'forced']

/** Every client there is. */
const clients: readonly ClientWishes[] = ['', 'disk', 'plain', 'nix'].flatMap((exportName) =>
  styles.flatMap((replies) =>
    contextWishes.flatMap((contexts) => tlsWishes.map((tls) => ({ exportName, replies, contexts, tls }))),
  ),
)
const pairs = clients.flatMap((wishes) => tlsModes.map((mode) => ({ wishes, mode })))

/** What is to come of it, or a word of the refusal. */
function expected({ exportName, replies, contexts, tls }: ClientWishes, mode: TlsMode): object | RegExp {
  if (mode === 'forced' && tls === 'none') return /ERR_TLS_REQD/
  if (mode === 'none' && tls === 'required') return /TLS is required, and the server refused it: ERR_POLICY/
  if (exportName === 'nix') return /refused export "nix": ERR_UNKNOWN/
  const offered = exportName === 'plain' ? plain : disk
  const ids =
    replies === 'simple'
      ? []
      : [...offered.contexts.keys()].filter((id) => contexts.includes(offered.contexts[id] ?? ''))
  return {
    size: offered.size,
    replies,
    blockSizes: offered.blockSizes,
    contexts: ids.map((id) => ({ id, name: offered.contexts[id] })),
  }
}

const agreedOf = (step: NegotiationStep | undefined) =>
  step?.kind === 'transmission' ? step.agreed : undefined

t.test('all wishes against all servers: both sides agree on the same', async (t) => {
  for (const { wishes, mode } of pairs) {
    const name = JSON.stringify({ ...wishes, mode })
    const { server, client } = meet(new ServerNegotiation(exports, mode), new ClientNegotiation(wishes))
    const what = expected(wishes, mode)
    if (what instanceof RegExp) {
      t.match(client, { kind: 'close', why: { message: what } }, name)
      t.same(server, { kind: 'close' }, `${name}: the client took leave`)
      continue
    }
    t.match(agreedOf(client), what, name)
    t.same(agreedOf(server), { ...agreedOf(client), exportName: wishes.exportName || 'disk' }, name)
  }
})

t.test('byte by byte comes out the same as whole', async (t) => {
  for (const { wishes, mode } of pairs) {
    const whole = meet(new ServerNegotiation(exports, mode), new ClientNegotiation(wishes))
    for (const piece of [1, 7]) {
      const parts = meet(new ServerNegotiation(exports, mode), new ClientNegotiation(wishes), piece)
      t.same(parts, whole, JSON.stringify({ ...wishes, mode, piece }))
    }
  }
})

/** Handshakes without TLS: a recording can be played back to either side. */
const plaintext = clients.filter(({ tls }) => tls === 'none')
const recordings = plaintext.map((wishes) => ({
  wishes,
  ...meet(new ServerNegotiation(exports), new ClientNegotiation(wishes)).sent,
}))

const damaged = (bytes: Buffer, numbers: Iterator<number>): Buffer => {
  const copy = Buffer.concat([bytes, Buffer.alloc(8)])
  mutate(copy, copy.length, (below) => (numbers.next().value ?? 0) % below)
  return copy
}
const property = (play: (index: number, numbers: Iterator<number>, piece: number) => boolean) =>
  fc.property(
    fc.nat(recordings.length - 1),
    fc.infiniteStream(fc.nat()),
    fc.integer({ min: 1, max: 600 }),
    play,
  )

t.test('a server takes any damage: it answers, waits, or closes, and nothing is thrown', async (t) => {
  const play = property((index, numbers, piece) => {
    const bytes = damaged(recordings[index]?.client ?? Buffer.alloc(0), numbers)
    const whole = fed(new ServerNegotiation(exports), bytes, bytes.length)
    const parts = fed(new ServerNegotiation(exports), bytes, piece)
    return (
      whole.sent.equals(parts.sent) && whole.last?.kind === parts.last?.kind && whole.sent.length < 20_000
    )
  })
  holds(t, play, 3000)
})

t.test('a client takes any damage: it goes on, waits, or closes, and nothing is thrown', async (t) => {
  const play = property((index, numbers, piece) => {
    const { wishes, server } = recordings[index] ?? { wishes: undefined, server: Buffer.alloc(0) }
    if (wishes === undefined) return false
    const bytes = damaged(server, numbers)
    const whole = fed(new ClientNegotiation(wishes), bytes, bytes.length)
    const parts = fed(new ClientNegotiation(wishes), bytes, piece)
    return (
      whole.sent.equals(parts.sent) && whole.last?.kind === parts.last?.kind && whole.sent.length < 20_000
    )
  })
  holds(t, play, 3000)
})

t.test('a hostile length is refused by its header, before its data is there', async (t) => {
  const header = Buffer.from('0000000349484156454f505400000007ffffffff', 'hex')
  t.match(fed(new ServerNegotiation(exports), header, 1).last, { kind: 'close', why: { name: 'PeerError' } })
  const client = new ClientNegotiation({ exportName: '', replies: 'simple', contexts: [], tls: 'none' })
  const reply = Buffer.from(
    '4e42444d4147494349484156454f505400030003e889045565a90000000700000003ffffffff',
    'hex',
  )
  t.match(fed(client, reply, 1).last, { kind: 'close', why: { name: 'PeerError' } })
})
