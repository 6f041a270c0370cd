// SPDX-License-Identifier: Apache-2.0
// Questions to the main thread, by number, and who waits for their answers.

import type { Answer, Question } from './messages.js'

export class Questions {
  readonly #post: (number: number, question: Question) => void
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  #next = 0

  constructor(post: (number: number, question: Question) => void) {
    this.#post = post
  }

  ask(question: Question): Promise<Answer> {
    const number = this.#next++
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(number, resolve))
    this.#post(number, question)
    return answered
  }

  answer(number: number, answer: Answer): void {
    this.#waiting.get(number)?.(answer)
    this.#waiting.delete(number)
  }
}
