// SPDX-License-Identifier: Apache-2.0
// The log: levels, and what is said when lines were lost.

import t from 'tap'
import { createLog, type LogWriter } from '../../daemon/log.js'

/** A writer with room for `room` lines; more are dropped until `room` is set anew. */
class SmallWriter implements LogWriter {
  readonly lines: { msg: string; lost?: number; level: number }[] = []
  room = Number.POSITIVE_INFINITY
  #dropped = 0

  write(text: string): boolean {
    if (this.lines.length >= this.room) {
      this.#dropped++
      return false
    }
    this.lines.push(JSON.parse(text))
    return true
  }

  dropped(): number {
    return this.#dropped
  }

  flushSync(): void {}
}

t.test('lines below the level are not written', async (t) => {
  const writer = new SmallWriter()
  const log = createLog(writer, 'warn')
  log.info('no')
  log.warn('yes')
  log.level = 'debug'
  log.debug('now')
  t.same(
    writer.lines.map((line) => line.msg),
    ['yes', 'now'],
  )
})

t.test('lost lines are counted in the log once there is room again', async (t) => {
  const writer = new SmallWriter()
  const log = createLog(writer, 'info')
  writer.room = 1
  for (const text of ['a', 'b', 'c']) log.info(text)
  writer.room = Number.POSITIVE_INFINITY
  log.info('d')
  log.info('e')
  t.match(
    writer.lines.map(({ msg, lost }) => [msg, lost]),
    [
      ['a', undefined],
      ['d', undefined],
      ['log lines were lost before this one', 2],
      ['e', undefined],
    ],
  )
})
