// SPDX-License-Identifier: Apache-2.0
// What a running mirror shows: a bar on a terminal, plain lines elsewhere, JSON lines, or nothing. Progress goes to
// stderr, results to stdout, so that `> file` keeps both useful. mirror.ts drives it.

import { SingleBar } from 'cli-progress'
import { toText } from '../../protocol/json-text.js'
import { formatDuration, formatEta, formatRate, formatSize } from '../common/units.js'
import type { QmpEvent } from './client.js'
import type { Progress } from './job-follower.js'

export interface Reporter {
  event(event: QmpEvent): void
  progress(progress: Progress): void
  /** Something the user should know now; one line. */
  note(text: string): void
  /** Clears what is on the screen. The result is printed by the caller after it. */
  end(): void
}

/** Milliseconds between two plain lines. */
const lineMs = 3000

/** A request older than this is worth a word, in the table of jobs too. */
export const waitingMs = 2000

/** Picks by what stderr is. */
export function reporter(how: { readonly json: boolean; readonly progress: boolean }): Reporter {
  if (how.json) return new JsonLines()
  if (!how.progress) return new Silent()
  return process.stderr.isTTY ? new Bar() : new PlainLines()
}

/** '1.20 GiB of 4.00 GiB, 850 MiB/s, ETA 0:12': what bar and lines have in common. */
export function progressText(progress: Progress, separator: string): string {
  const parts = [
    `${formatSize(progress.offset)} of ${formatSize(progress.length)}`,
    formatRate(progress.rate),
  ]
  if (progress.etaSeconds !== undefined) parts.push(`ETA ${formatEta(progress.etaSeconds)}`)
  if (progress.oldest !== undefined && progress.oldest.ageMs >= waitingMs) {
    parts.push(`${progress.oldest.operation} waits ${formatDuration(progress.oldest.ageMs)}`)
  }
  return parts.join(separator)
}

/** Percent with one decimal; never 100 before the end is reached. */
export function percentText(progress: Progress): string {
  if (progress.length === 0) return '0.0%'
  return `${(Math.floor((progress.offset / progress.length) * 1000) / 10).toFixed(1)}%`
}

/** A paused job is shown as such, else its phase. */
function phaseText(progress: Progress): string {
  return progress.status === 'paused' || progress.status === 'standby' ? 'paused' : progress.phase
}

class Bar implements Reporter {
  readonly #bar: SingleBar
  #shown = false
  #last: Progress | undefined

  constructor() {
    this.#bar = new SingleBar({
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
      barsize: 24,
      format: '{phase} [{bar}] {percent}  {text}',
    })
  }

  event(): void {}

  progress(progress: Progress): void {
    this.#last = progress
    const payload = {
      phase: phaseText(progress).padEnd(8),
      percent: percentText(progress),
      text: progressText(progress, '  '),
    }
    // A length of 0 (nothing known yet) would make the bar divide by it.
    const total = Math.max(1, progress.length)
    if (!this.#shown) this.#bar.start(total, progress.offset, payload)
    this.#shown = true
    this.#bar.setTotal(total)
    this.#bar.update(progress.offset, payload)
  }

  note(text: string): void {
    this.end()
    process.stderr.write(`blockferry: ${text}\n`)
    if (this.#last !== undefined) this.progress(this.#last)
  }

  end(): void {
    if (this.#shown) this.#bar.stop()
    this.#shown = false
  }
}

class PlainLines implements Reporter {
  #lastAt = performance.now()

  event(): void {}

  progress(progress: Progress): void {
    const now = performance.now()
    if (now - this.#lastAt < lineMs) return
    this.#lastAt = now
    process.stderr.write(`${phaseText(progress)} ${percentText(progress)}, ${progressText(progress, ', ')}\n`)
  }

  note(text: string): void {
    process.stderr.write(`blockferry: ${text}\n`)
  }

  end(): void {}
}

class JsonLines implements Reporter {
  event(event: QmpEvent): void {
    process.stdout.write(`${toText(event.value)}\n`)
  }

  progress(): void {}

  note(text: string): void {
    process.stderr.write(`blockferry: ${text}\n`)
  }

  end(): void {}
}

class Silent implements Reporter {
  event(): void {}

  progress(): void {}

  note(text: string): void {
    process.stderr.write(`blockferry: ${text}\n`)
  }

  end(): void {}
}
