// SPDX-License-Identifier: Apache-2.0
// Digests, over both engines. Oracle: Python's hashlib, and the empty and short texts everybody knows.

import { spawnSync } from 'node:child_process'
import t from 'tap'
import { DIGEST_STATE, type IoEngine } from '../../native/types.js'
import { engineFor, KIB, kinds, pattern, random, takeSlot } from './kinds.js'

const EINVAL = 22
const DIGEST = 32
const noPython = spawnSync('python3', ['--version']).error === undefined ? false : 'no python3'

/** Hashes what lies in a slot, cut where `cuts` says. */
async function digestOf(engine: IoEngine, slot: number, cuts: readonly number[]): Promise<string> {
  const place = takeSlot(engine)
  const state = { slot: place, offset: 512, length: DIGEST_STATE }
  for (const [index, end] of cuts.entries()) {
    const start = cuts[index - 1] ?? 0
    const step = { first: index === 0, last: index === cuts.length - 1 }
    const result = await engine.digest({ slot, offset: start, length: end - start }, state, step)
    if (result !== 0) throw new Error(String(result))
  }
  const hex = Buffer.from(engine.slotBytes(place).subarray(512, 512 + DIGEST)).toString('hex')
  engine.giveSlots([place])
  return hex
}

function oracle(bytes: Uint8Array): string {
  const script =
    'import hashlib,sys; print(hashlib.blake2b(sys.stdin.buffer.read(),digest_size=32).hexdigest(),end="")'
  // What checks the addon's memory is not for Python.
  const env = { ...process.env, LD_PRELOAD: undefined }
  const { stdout, stderr } = spawnSync('python3', ['-c', script], { input: bytes, encoding: 'utf8', env })
  if (stdout === '') throw new Error(stderr)
  return stdout
}

for (const { aio, absent } of kinds) {
  t.test(
    `${aio}: the digest of abc is that of the RFC's algorithm with 32 bytes`,
    { skip: absent },
    async (t) => {
      const engine = engineFor(t, { aio })
      const slot = takeSlot(engine)
      engine.slotBytes(slot).set(Buffer.from('abc'))
      const hex = 'bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319'
      t.equal(await digestOf(engine, slot, [3]), hex)
      t.equal(await digestOf(engine, slot, [1, 3]), hex)
    },
  )

  t.test(
    `${aio}: however bytes are cut, their digest is the same`,
    { skip: absent || noPython },
    async (t) => {
      const engine = engineFor(t, { aio })
      const slot = takeSlot(engine)
      const seed = Number(process.env.SEED ?? 20)
      t.comment(`seed ${seed}`)
      const below = random(seed)
      for (const length of [1, 127, 128, 129, 255, 256, 257, 4096, 64 * KIB + 1]) {
        const bytes = pattern(length, length)
        engine.slotBytes(slot).set(bytes)
        const wanted = oracle(bytes)
        t.equal(await digestOf(engine, slot, [length]), wanted, `${length} bytes at once`)
        for (let round = 0; round < 10; round++) {
          const cuts = new Set(Array.from({ length: 5 }, () => 1 + below(length)))
          const ends = [...cuts.add(length)].sort((a, b) => a - b)
          t.equal(await digestOf(engine, slot, ends), wanted, `cut at ${ends}`)
        }
      }
    },
  )

  t.test(`${aio}: a state without room is refused`, { skip: absent }, async (t) => {
    const engine = engineFor(t, { aio })
    const slot = takeSlot(engine)
    const state = { slot, offset: 0, length: 64 }
    const result = await engine.digest({ slot, offset: 4096, length: 10 }, state, { first: true, last: true })
    t.equal(result, -EINVAL)
  })
}
