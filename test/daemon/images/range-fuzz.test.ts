// SPDX-License-Identifier: Apache-2.0
// Any Range and Content-Range, sent as they are: the bytes that a plain model says, or a refusal that changes nothing.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { random } from '../../helpers/graph.js'
import { request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const ROUNDS = 1500
const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
fill(scratch.file('data'), MiB)
await daemon.ticket('t', 'data', MiB)

const seed = Number(process.env.SEED ?? Date.now() % 1e9)
t.comment(`seed ${seed}`)
const below = random(seed)
const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T

const number = () =>
  below(3) > 0
    ? String(below(MiB))
    : pick([
        String(below(MiB)),
        String(MiB - 1 + below(3)),
        String(below(9)),
        '9007199254740991',
        '9007199254740992',
        '00000000000000007',
        '99999999999999999999',
        '-1',
        '1e3',
        '0x10',
        '',
        '*',
      ])

/** Mostly right, with a scrap in a wrong place now and then. */
function header(form: readonly string[]): string {
  const parts = form.map((part) => (part === 'N' ? number() : part))
  if (below(3) === 0)
    parts.splice(
      below(parts.length + 1),
      below(2),
      pick(['-', '/', ',', ' ', 'bytes', '=', '*', '\xb2', '0']),
    )
  return parts.join('')
}

const digits = (text: string) =>
  text.length <= 16 && BigInt(text) <= BigInt(Number.MAX_SAFE_INTEGER) ? BigInt(text) : undefined
const size = BigInt(MiB)

/** @returns first byte and one past the last, or the status of the refusal */
function wantedRange(text: string): [number, number] | 416 {
  const match = /^bytes=(\d+)-(\d*)$/i.exec(text.trim())
  const first = match === null ? undefined : digits(match[1]!)
  const last = match === null ? undefined : match[2] === '' ? size - 1n : digits(match[2]!)
  if (first === undefined || last === undefined || first > last || last >= size) return 416
  return [Number(first), Number(last) + 1]
}

/** @returns the first byte, or the status of the refusal */
function wantedStart(text: string, length: number): { readonly start: number } | 400 | 416 {
  const match = /^bytes (\d+)-(\d+|\*)\/(\d+|\*)$/i.exec(text.trim())
  if (match === null) return 400
  const first = digits(match[1]!)
  const last = match[2] === '*' ? first : digits(match[2]!)
  const total = match[3] === '*' ? BigInt(Number.MAX_SAFE_INTEGER) + 1n : digits(match[3]!)
  if (first === undefined || last === undefined || total === undefined || first > last || last >= total)
    return 400
  return first + BigInt(length) > size ? 416 : { start: Number(first) }
}

t.test('any range is answered with its bytes, or refused', async (t) => {
  const content = readFileSync(scratch.file('data'))
  let right = 0
  for (let round = 0; round < ROUNDS; round++) {
    const range = header(['bytes', '=', 'N', '-', 'N'])
    const wanted = wantedRange(range)
    const { status, bytes, headers } = await request(daemon.local, 'GET', '/images/t', { range })
    if (wanted === 416) {
      if (status !== 416) t.fail(`${JSON.stringify(range)}: ${status}`)
      continue
    }
    right++
    const [first, end] = wanted
    if (status !== 206 || Buffer.compare(bytes, content.subarray(first, end)) !== 0)
      t.fail(`${JSON.stringify(range)}: ${status}, ${bytes.length} bytes`)
    if (headers['content-range'] !== `bytes ${first}-${end - 1}/${MiB}`) t.fail(JSON.stringify(headers))
  }
  t.ok(right > ROUNDS / 20, `${right} of ${ROUNDS} were ranges`)
})

t.test('any content-range is written where it says, or refused and nothing is written', async (t) => {
  const model = readFileSync(scratch.file('data'))
  let right = 0
  for (let round = 0; round < ROUNDS; round++) {
    const text = header(['bytes', ' ', 'N', '-', 'N', '/', pick(['*', '*', 'N'])])
    const body = Buffer.alloc(1 + below(5000), below(256))
    const wanted = wantedStart(text, body.length)
    const { status } = await request(
      daemon.local,
      'PUT',
      '/images/t?flush=n',
      { 'content-range': text },
      body,
    )
    if (status !== (typeof wanted === 'number' ? wanted : 200)) t.fail(`${JSON.stringify(text)}: ${status}`)
    if (typeof wanted === 'number') continue
    right++
    body.copy(model, wanted.start)
  }
  t.ok(right > ROUNDS / 50, `${right} of ${ROUNDS} were ranges`)
  t.equal(Buffer.compare(readFileSync(scratch.file('data')), model), 0)
})
