// SPDX-License-Identifier: Apache-2.0
// Broadcast: events to every session that listens. Handlers emit; sessions subscribe when their negotiation is done.
// An event is made into text once for each dialect, however many clients there are.

import { type Timestamp, timestamp } from '../../protocol/qmp.js'
import type { EventData, EventName } from '../../protocol/schema/index.js'
import type { EventSink } from './commands.js'

/** How a dialect writes an event; a line with its end. */
export type EventText = (name: string, data: unknown, at: Timestamp) => string

export interface Subscriber {
  readonly eventText: EventText
  /** Takes the line or counts it as lost; returns at once. */
  event(text: string): void
}

export class Broadcast implements EventSink {
  readonly #subscribers = new Set<Subscriber>()

  add(subscriber: Subscriber): void {
    this.#subscribers.add(subscriber)
  }

  delete(subscriber: Subscriber): void {
    this.#subscribers.delete(subscriber)
  }

  emit<N extends EventName>(name: N, data: EventData<N>): void {
    if (this.#subscribers.size === 0) return
    const at = timestamp(Date.now())
    const texts = new Map<EventText, string>()
    for (const subscriber of this.#subscribers) {
      let text = texts.get(subscriber.eventText)
      if (text === undefined) {
        text = subscriber.eventText(name, data, at)
        texts.set(subscriber.eventText, text)
      }
      subscriber.event(text)
    }
  }
}
