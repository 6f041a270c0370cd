// SPDX-License-Identifier: Apache-2.0
// The job that looks at files: what they are, whether they are what they were, how two differ. Nothing is written.

import { strict as assert } from 'node:assert'
import { FormatError } from '../../../protocol/format-error.js'
import type { JsonObject } from '../../../protocol/json-value.js'
import { atMost } from '../../common/deadline.js'
import type { JobReceipt, JobResult } from '../../common/job-messages.js'
import { Cancelled } from '../../errors.js'
import type { BodyProgress, JobBody, JobControl } from '../../iothread/jobs/body.js'
import { Stopwatch } from '../../iothread/jobs/stopwatch.js'
import type { TransferContext } from '../context.js'
import { named, unlessCancelled } from '../job-ends.js'
import type { InspectedFile, InspectSpec, Report } from '../messages.js'
import { Pace } from '../pace.js'
import type { Slots } from '../slots.js'
import { Stats } from '../stats.js'
import { WaitMeter } from '../wait-meter.js'
import { info } from './info.js'
import { Inspection, type Meter } from './inspection.js'
import { diff, map } from './results.js'
import { verify } from './verify.js'

/** How long the end waits for storage to let go, milliseconds. */
const CLOSE_MS = 1000

export class InspectJob implements JobBody {
  readonly #spec: InspectSpec
  readonly #control: JobControl
  readonly #context: TransferContext
  readonly #stopwatch = new Stopwatch()
  readonly #open: Inspection[] = []
  #read = 0
  #expected = 0
  #paused: Promise<void> | undefined
  #result: JsonObject | undefined

  constructor(
    id: string,
    spec: InspectSpec,
    slots: Slots,
    control: JobControl,
    report: (report: Report) => void,
  ) {
    this.#spec = spec
    this.#control = control
    const meter = new WaitMeter()
    this.#context = {
      ...{ slots, meter, tally: new Stats(meter), signal: control.signal },
      ...{ pace: new Pace(0, control.signal), inFiles: new Set<string>() },
      pausePoint: () => this.#pausePoint(),
      fdTaken: (fd) => report({ kind: 'fd-taken', fd }),
      warn: (text) => report({ kind: 'log', level: 'warn', fields: { job: id }, text }),
    }
  }

  async prepare(): Promise<void> {
    const { image, other } = this.#spec
    try {
      for (const file of other === undefined ? [image] : [image, other]) await this.#inspect(file)
    } catch (error) {
      await this.#close()
      throw named(error)
    }
  }

  async run(): Promise<void> {
    this.#stopwatch.enter('bulk')
    this.#control.phase('bulk')
    try {
      this.#result = await unlessCancelled(this.#control.signal, this.#look())
    } catch (error) {
      throw this.#control.signal.aborted ? new Cancelled() : named(error)
    } finally {
      this.#stopwatch.stop()
      await atMost(this.#close(), CLOSE_MS)
    }
  }

  progress(): BodyProgress {
    const len = Math.max(this.#read, this.#expected)
    return { offset: this.#read, len, busy: true, activelySynced: false }
  }

  receipt(): JobReceipt {
    const durations = this.#stopwatch.durations()
    return { copied: this.#read, zeroed: 0, skipped: 0, flush: 'not-reached', durations }
  }

  result(): JobResult | undefined {
    return this.#result
  }

  /** Nothing is pending: run() closed what was open. */
  async finalize(): Promise<void> {}

  async #look(): Promise<JsonObject> {
    const { what, digests, cells } = this.#spec
    const [one, other] = this.#open
    assert(one !== undefined)
    switch (what) {
      case 'info':
        return await info(one)
      case 'verify':
        return await verify(one, digests, this.#context.slots)
      case 'map':
        return await map(one, other, cells, this.#context, this.#meter())
      case 'diff':
        if (other === undefined) throw new FormatError('diff needs two images')
        return await diff(one, other, this.#context, this.#meter())
      default:
        return what satisfies never
    }
  }

  async #inspect(file: InspectedFile): Promise<void> {
    this.#open.push(await Inspection.open(file, this.#context, this.#meter()))
  }

  #meter(): Meter {
    return {
      expect: (bytes) => {
        this.#expected += bytes
      },
      read: (bytes) => {
        this.#read += bytes
      },
    }
  }

  async #close(): Promise<void> {
    for (const inspection of this.#open.splice(0)) await inspection.close()
  }

  /** Several wait here together. */
  #pausePoint(): Promise<void> {
    if (!this.#control.pausing && !this.#control.signal.aborted) return Promise.resolve()
    this.#paused ??= this.#control.pausePoint().finally(() => {
      this.#paused = undefined
    })
    return this.#paused
  }
}
