// SPDX-License-Identifier: Apache-2.0
// The engine's lanes over the addon. Made and used by engine.ts; what they promise stands in lane-types.ts.

import { type NativeEngine, ops } from './binding.js'
import type { HttpLaneTerms, Lane, LaneCounts, LaneEnd, LaneStyle, LaneTerms } from './lane-types.js'
import type { Requests } from './requests.js'

const ECANCELED = 125
/** Same order as ReplyStyle in src/nbd-lane.h. */
const styles: readonly LaneStyle[] = ['simple', 'structured', 'extended']
const OP = ops.indexOf('lane')
const NOTHING = new Uint8Array()
const NOWHERE = new Float64Array()

/** What the addon tells of the end: received, unsent, places, counts. */
type Told = readonly [Uint8Array, Uint8Array, Float64Array, ...number[]]

export function lend(native: NativeEngine, requests: Requests, terms: LaneTerms): Lane {
  const { file, stream, slot, slotOffset, room, length, style, writable, align, idleMs } = terms
  const memory = [slot, slotOffset, room] as const
  const kind = styles.indexOf(style)
  return begin(native, requests, (id) =>
    native.submitLane(OP, id, file, stream, ...memory, length, kind, writable, align, idleMs),
  )
}

export function lendHttp(native: NativeEngine, requests: Requests, terms: HttpLaneTerms): Lane {
  const { file, stream, slot, slotOffset, room, length, each, writes, idleMs, dateAt, head, reply } = terms
  const memory = [slot, slotOffset, room] as const
  const texts = [...head, ...reply]
  return begin(native, requests, (id) =>
    native.submitHttpLane(OP, id, file, stream, ...memory, length, each, writes, idleMs, dateAt, texts),
  )
}

function begin(native: NativeEngine, requests: Requests, submitAs: (id: number) => number): Lane {
  let own: number | undefined
  let last: LaneCounts | undefined
  const submit = (id: number) => {
    own = id
    return submitAs(id)
  }
  const soFar = () => (own === undefined ? [] : native.laneCounts(own))
  const finish = (result: number, value: unknown): LaneEnd => {
    const [received, unsent, places, ...counts] = (value ?? [NOTHING, NOTHING, NOWHERE, ...soFar()]) as Told
    last = countsOf(counts)
    return { result, received, unsent, places }
  }
  const none = { result: -ECANCELED, received: NOTHING, unsent: NOTHING, places: NOWHERE }
  const ended = requests.sendFor(submit, finish, none)
  return {
    ended,
    counts: () => last ?? countsOf(soFar()),
    callBack: () => {
      if (own !== undefined) native.callBack(own, true)
    },
    endSoon: () => {
      if (own !== undefined) native.callBack(own, false)
    },
  }
}

function countsOf([
  reads = 0,
  readBytes = 0,
  writes = 0,
  writeBytes = 0,
  from = 0,
  to = 0,
]: readonly number[]) {
  return { reads, readBytes, writes, writeBytes, from, to }
}
