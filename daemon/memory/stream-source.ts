// SPDX-License-Identifier: Apache-2.0
// Source: a migration stream, from a connection or a file. Reads head, sections and pages and gives them to a sink; what it
// does not know it refuses by name. With multifd it is the main connection, see multifd-source.ts.

import type { PageScanner } from '../../native/stream-types.js'
import { FormatError } from '../../protocol/format-error.js'
import { blockFields, parseRamStart, type RamStart } from '../../protocol/migration/block-list.js'
import type { Parsed } from '../../protocol/migration/bytes.js'
import { advisesPostcopyRam, type Command, waitsForAnswers } from '../../protocol/migration/command.js'
import {
  type Configuration,
  hasCapability,
  pageSizeOf,
  parseConfiguration,
  withoutCapability,
} from '../../protocol/migration/configuration.js'
import { quoted } from '../../protocol/migration/error-text.js'
import { Outline, type Step } from '../../protocol/migration/outline.js'
import { parsePreamble } from '../../protocol/migration/preamble.js'
import { refusals } from '../../protocol/migration/refusals.js'
import type { Tally } from './context.js'
import type { DeltaPages } from './delta-pages.js'
import {
  type BlockPlace,
  checkEarly,
  checkTotal,
  type ImageBlock,
  type ImageHead,
  type MemorySink,
} from './image.js'
import type { Input } from './input.js'
import type { PageGatherer } from './page-gatherer.js'
import { ReturnPath } from './return-path.js'
import type { TailCheck } from './tail-check.js'

export interface StreamSourceOptions {
  readonly input: Input
  readonly sink: MemorySink
  /** The bytes are stored as they are: what cannot be read on is only not looked into. */
  readonly stores: boolean
  readonly warn: (text: string) => void
  /** 'none': nobody is at the other end. 'refused': there is no way to answer him. */
  readonly answers: ReturnPath | 'none' | 'refused'
  /** Called once the blocks have their places. */
  readonly reader: (head: ImageHead, places: readonly BlockPlace[]) => PageReader
  readonly tail: TailCheck
  /** Blocks whose memory lies in files: it is not in the stream. Undefined: nobody minds what is left out. */
  readonly inFiles: ReadonlySet<string> | undefined
  /** Told when the head is known, when a part of the memory comes, and when the last page was given. */
  readonly tally: Pick<Tally, 'begun' | 'iteration' | 'pagesDone'>
}

/** What the section of RAM needs, made when its blocks are known. */
export interface PageReader {
  readonly scanner: PageScanner
  readonly pages: Pick<PageGatherer, 'ready' | 'hand' | 'settle' | 'drop'>
  readonly delta: Pick<DeltaPages, 'apply'> | undefined
  /** Multifd: waits until all connections have come to the same point. */
  readonly sync: ((at: 'record' | 'end') => Promise<void>) | undefined
  /** Whether a page of that block came. */
  seen(block: number): boolean
  /** No more pages come. */
  finish(): Promise<void>
}

export class StreamSource {
  readonly #options: StreamSourceOptions
  readonly #outline = new Outline()
  #postcopyAdvised = false
  /** Kept before the sink has begun. */
  #kept: Uint8Array[] = []
  #keptBytes = 0
  #reader: PageReader | undefined
  #head: ImageHead | undefined

  constructor(options: StreamSourceOptions) {
    this.#options = options
  }

  /** Reads the stream to its end. The sink is not finished here. */
  async run(): Promise<void> {
    const { input } = this.#options
    await input.parse(parsePreamble, 'its magic number')
    const configuration = await input.parse(parseConfiguration, 'its configuration')
    if (hasCapability(configuration, 'mapped-ram'))
      throw new FormatError(`${input.name} has a mapped-ram file, which cannot be read as a stream`)
    for (let more = true; more; ) {
      const step = await input.parse(
        (bytes, origin) => copied(this.#outline.next(bytes, origin)),
        'a section',
      )
      // One of the many that QEMU sends while it waits.
      if (step.kind === 'section' && step.empty) continue
      more = await this.#step(step, configuration)
    }
    await this.#reader?.finish()
    this.#checkBlocks(hasCapability(configuration, 'x-ignore-shared'))
    await this.#options.sink.pagesDone()
    this.#options.tally.pagesDone()
    await this.#copyTail()
  }

  /** @returns whether more of it is to be read by sections */
  async #step(step: Step, configuration: Configuration): Promise<boolean> {
    switch (step.kind) {
      case 'ram':
        await this.#ram(step.part, step.id, configuration)
        return true
      case 'command':
        await this.#answer(step.command, configuration)
        if (advisesPostcopyRam(step.command)) this.#postcopyAdvised = true
        if (step.fate.kind === 'refuse') throw this.#refused(step.fate.reason)
        if (step.fate.kind === 'keep') await this.#keep(step.bytes)
        return true
      case 'section':
        await this.#keep(step.bytes)
        return true
      case 'refuse':
        if (!this.#options.stores) throw this.#refused(step.reason)
        this.#options.warn(step.reason)
        this.#options.sink.undigested?.(step.reason)
        return false
      case 'boundary':
        this.#checkCame()
        return false
      default:
        return step satisfies never
    }
  }

  async #answer(command: Command, { machine }: Configuration): Promise<void> {
    const { answers } = this.#options
    if (answers === 'none') return
    if (answers !== 'refused') await answers.answer(command, machine)
    else if (waitsForAnswers(command)) throw this.#refused(refusals.returnPath)
  }

  #refused(reason: string): FormatError {
    return new FormatError(`${this.#options.input.name}: ${reason}`)
  }

  async #keep(bytes: Uint8Array): Promise<void> {
    this.#keptBytes += bytes.length
    checkEarly(this.#options.input.name, this.#keptBytes)
    if (this.#reader === undefined) this.#kept.push(bytes)
    else await this.#options.sink.early(bytes)
  }

  async #ram(part: 'start' | 'part' | 'end', id: number, configuration: Configuration): Promise<void> {
    const { input, tally } = this.#options
    tally.iteration()
    if (part === 'start') await this.#begin(id, configuration)
    else await this.#body()
    await input.parse((bytes, origin) => this.#outline.ramFooter(bytes, origin), 'the footer of a section')
  }

  async #begin(section: number, configuration: Configuration): Promise<void> {
    const { input, sink, reader, tally } = this.#options
    const fields = blockFields(configuration, this.#postcopyAdvised)
    const start = await input.parse(
      (bytes, origin) => parseRamStart(bytes, fields, origin),
      'the list of RAM blocks',
    )
    const head: ImageHead = {
      configuration: withoutCapability(configuration, 'x-ignore-shared'),
      pageSize: pageSizeOf(configuration),
      section,
      blocks: start.blocks.map(blockOf),
      syncPerWalk: start.syncRecord,
    }
    checkTotal(input.name, head.blocks)
    this.#head = head
    tally.begun(head)
    this.#reader = reader(head, await sink.begin(head))
    for (const bytes of this.#kept.splice(0)) await sink.early(bytes)
    if (start.syncRecord) await this.#syncPoint()
    await this.#reader.sync?.('end')
  }

  /** Page records to the end of a section's body. */
  async #body(): Promise<void> {
    const { input } = this.#options
    const reader = this.#reader
    if (reader === undefined) throw this.#refused('a section of memory comes before its beginning')
    const { scanner, pages, delta } = reader
    for (;;) {
      const chunk = await input.chunk()
      if (chunk === undefined) throw input.cutShort('a section of memory')
      await pages.ready()
      const { taken, stop } = scanner.scan(chunk.slot, chunk.offset, chunk.length)
      input.take(taken)
      switch (stop) {
        case 'input':
          break
        case 'full':
          await pages.hand()
          break
        case 'order':
          await pages.settle()
          break
        case 'sync':
          await this.#syncPoint()
          break
        case 'end':
          await reader.sync?.('end')
          return
        case 'delta':
          await this.#delta(delta)
          break
        case 'bad':
          throw new FormatError(`${scanner.problem()}, before offset ${input.position} of ${input.name}`)
        default:
          stop satisfies never
      }
    }
  }

  /** A mark in the stream: then the pages come over other connections. */
  async #syncPoint(): Promise<void> {
    if (this.#reader?.sync === undefined) throw this.#refused(refusals.multifd)
    await this.#reader.sync('record')
  }

  /** Machine types before 8.1 do not say that their pages come elsewhere, but a guest without a page with data there is none. */
  #checkCame(): void {
    const reader = this.#reader
    if (reader === undefined) throw this.#refused('there is no memory in it')
    const { normal, delta } = reader.scanner.counts()
    if (reader.sync === undefined && normal + delta === 0) throw this.#refused(refusals.multifd)
  }

  /** What the stream leaves out has to come from files, and from nowhere else. */
  #checkBlocks(leavesOut: boolean): void {
    const { inFiles, input } = this.#options
    if (inFiles === undefined) return
    for (const [index, { name, length }] of this.#head?.blocks.entries() ?? []) {
      if (length === 0) continue
      const seen = this.#reader?.seen(index) ?? false
      if (seen && inFiles.has(name))
        throw new FormatError(
          `${input.name} has the memory of block ${quoted(name)}: it is not to come from a file`,
        )
      if (!seen && leavesOut && !inFiles.has(name))
        throw new FormatError(
          `${input.name} leaves out the memory of block ${quoted(name)} (x-ignore-shared): it has to come from a file`,
        )
    }
  }

  async #delta(delta: PageReader['delta']): Promise<void> {
    const { input } = this.#options
    if (delta === undefined)
      throw this.#refused('the stream has XBZRLE records: only a mapped-ram file can take them')
    try {
      await delta.apply()
    } catch (error) {
      if (!(error instanceof FormatError)) throw error
      throw new FormatError(`${error.message}, before offset ${input.position} of ${input.name}`, {
        cause: error,
      })
    }
  }

  async #copyTail(): Promise<void> {
    const { input, sink, tail, answers } = this.#options
    const waits = answers instanceof ReturnPath && answers.isOpen
    for (let chunk = await input.chunk(); chunk !== undefined; chunk = await input.chunk()) {
      const bytes = await input.bytes(chunk.length, 'the states of devices')
      const length = tail.add(bytes)
      await sink.tail(bytes.subarray(0, length))
      if (length < bytes.length) {
        sink.endsAfter?.(input.taken - (bytes.length - length))
        break
      }
      // Who waits for an answer does not close.
      if (waits && tail.isComplete) break
    }
    tail.check()
  }
}

function blockOf({ name, usedLength }: RamStart['blocks'][number]): ImageBlock {
  return { name, length: usedLength }
}

/** A step whose bytes are its own: those it was read from are received into again. */
function copied(parsed: Parsed<Step> | undefined): Parsed<Step> | undefined {
  if (parsed === undefined || !('bytes' in parsed.value)) return parsed
  return { length: parsed.length, value: { ...parsed.value, bytes: parsed.value.bytes.slice() } }
}
