// SPDX-License-Identifier: Apache-2.0
// The images server as the main thread knows it: its worker while there is one, questions from it, connections to it and
// from it. Made by the composition root's command set.

import type { Logger } from 'pino'
import { closeDescriptor } from '../../../native/descriptors.js'
import type { ImagesHandle, StartImagesWorker } from '../../images/handle.js'
import type { Answer, ListenSpec, Question, Report } from '../../images/messages.js'
import { askToEnd, endThread, FAREWELL_MS } from '../farewell.js'
import type { Front } from './tickets.js'

export interface ImagesEvents {
  question(question: Question): Promise<Answer> | Answer
  /** @param fd  the receiver's from now on */
  handed(ticket: string, connection: number, fd: number, rest: Uint8Array): void
}

export class ImagesService implements Front {
  readonly #start: StartImagesWorker
  readonly #log: Logger
  readonly #events: ImagesEvents
  #worker: ImagesHandle | undefined

  constructor(start: StartImagesWorker, log: Logger, events: ImagesEvents) {
    this.#start = start
    this.#log = log
    this.#events = events
  }

  get running(): boolean {
    return this.#worker !== undefined
  }

  /** @throws CommandError when it cannot listen there */
  async listen(spec: ListenSpec): Promise<void> {
    const worker = this.#worker ?? this.#started()
    const { port } = await worker.request('listen', spec)
    const { service, address } = spec
    this.#log.info({ service, address, port }, 'images server listens')
  }

  /** Credentials that may have been renewed are read again; those from before stay when that fails. */
  async reload(): Promise<void> {
    if (this.#worker === undefined) return
    try {
      await this.#worker.request('reload', null)
      this.#log.info('credentials of the images server read again')
    } catch (error) {
      this.#log.error({ err: error }, 'credentials of the images server not read again')
    }
  }

  /** The end of everything: nobody new is served, the sockets go. */
  async end(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    if (worker === undefined) return
    await askToEnd(worker, FAREWELL_MS, this.#log)
    await endThread(worker, this.#log)
  }

  take(connection: number, fd: number, rest: Uint8Array): void {
    if (this.#worker === undefined) closeDescriptor(fd)
    else this.#tell(this.#worker.request('take', { connection, fd, rest }))
  }

  left(connection: number): void {
    if (this.#worker !== undefined) this.#tell(this.#worker.request('left', { connection }))
  }

  #started(): ImagesHandle {
    const worker = this.#start('images')
    this.#worker = worker
    worker.onReport((report) => this.#report(worker, report))
    worker.onExit((error) => {
      if (this.#worker !== worker) return
      this.#worker = undefined
      this.#log.error({ err: error }, 'images server lost')
    })
    return worker
  }

  #report(worker: ImagesHandle, report: Report): void {
    switch (report.kind) {
      case 'log':
        this.#log[report.level](report.fields, report.text)
        return
      case 'question':
        void this.#answer(worker, report.number, report.question)
        return
      case 'handed':
        this.#events.handed(report.ticket, report.connection, report.fd, report.rest)
        return
      default:
        report satisfies never
    }
  }

  async #answer(worker: ImagesHandle, number: number, question: Question): Promise<void> {
    let answer: Answer
    try {
      answer = await this.#events.question(question)
    } catch (error) {
      this.#log.warn({ err: error, kind: question.kind }, 'a question about a ticket has no answer')
      answer = { kind: 'refused', status: 500, message: 'the image server could not do this' }
    }
    this.#tell(worker.request('answer', { question: number, answer }))
  }

  /** A server that has ended needs to know nothing. */
  #tell(told: Promise<unknown>): void {
    told.catch(() => undefined)
  }
}
