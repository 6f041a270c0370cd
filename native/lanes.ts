// SPDX-License-Identifier: Apache-2.0
// The engine's lanes over the addon. Made and used by engine.ts; what they promise stands in lane-types.ts.

import { type NativeEngine, ops } from './binding.js'
import type { Lane, LaneCounts, LaneEnd, LaneStyle, LaneTerms } from './lane-types.js'
import type { Requests } from './requests.js'

const ECANCELED = 125
/** Same order as ReplyStyle in src/nbd-lane.h. */
const styles: readonly LaneStyle[] = ['simple', 'structured', 'extended']
const NOTHING = new Uint8Array()

/** What the addon tells of the end: received, unsent, counts. */
type Told = readonly [Uint8Array, Uint8Array, ...number[]]

export function lend(native: NativeEngine, requests: Requests, terms: LaneTerms): Lane {
  let own: number | undefined
  let last: LaneCounts | undefined
  const submit = (id: number) => {
    own = id
    const { file, stream, slot, slotOffset, room, length, style, writable, align, idleMs } = terms
    return native.submitLane(
      ops.indexOf('lane'),
      id,
      file,
      stream,
      slot,
      slotOffset,
      room,
      length,
      styles.indexOf(style),
      writable,
      align,
      idleMs,
    )
  }
  const soFar = () => (own === undefined ? [] : native.laneCounts(own))
  const finish = (result: number, value: unknown): LaneEnd => {
    const [received, unsent, ...counts] = (value ?? [NOTHING, NOTHING, ...soFar()]) as Told
    last = countsOf(counts)
    return { result, received, unsent }
  }
  const ended = requests.sendFor(submit, finish, { result: -ECANCELED, received: NOTHING, unsent: NOTHING })
  return {
    ended,
    counts: () => last ?? countsOf(soFar()),
    callBack: () => {
      if (own !== undefined) native.callBack(own)
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
