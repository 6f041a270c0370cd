// SPDX-License-Identifier: Apache-2.0
// One random round: operations on an image through a graph, beside the same operations on bytes in memory. Compares
// content with the bytes and with qemu-img, and checks the image after each step with this project's checker, which needs no
// program. After one step in three, and at every quiet moment, with qemu-img too, which must find the same: after each step it
// nearly doubled the time of the test, from 35 s to 65 s, and found nothing more.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import type { Slice, WriteHow } from '../../../../../../daemon/iothread/block/driver.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import {
  type Checker,
  comparable,
  mustQemuImg,
  oracle,
  oracleBeside,
  qemuImg,
} from '../../../../../helpers/check-image.js'
import type { TestGraph } from '../../../../../helpers/graph.js'
import { qemuTools } from '../../../../../helpers/qemu-tools.js'
import { type Case, type CaseFiles, nodeSpec, pickRuntime, type Random } from './oracle-case.js'

const SECTOR = 512
const PARALLEL = 4

interface Range {
  readonly offset: number
  readonly length: number
}

export class OracleRun {
  /** What was done, for whoever looks for the reason of a failure. */
  readonly story: string[] = []
  readonly #case: Case
  readonly #g: TestGraph
  readonly #image: string
  readonly #rnd: Random
  readonly #checker: Checker
  readonly #slots: readonly number[]
  readonly #cluster: number
  #disk: Buffer
  #node: BlockNode | undefined
  /** What the disk was when they were taken. */
  readonly #snapshots = new Map<string, Buffer>()
  #taken = 0

  constructor(c: Case, g: TestGraph, files: CaseFiles, rnd: Random, check: Checker) {
    this.#checker = check
    this.#case = c
    this.#g = g
    this.#image = files.image
    this.#disk = Buffer.from(files.content)
    this.#rnd = rnd
    this.#slots = g.engine.takeSlots(PARALLEL)
    this.#cluster = 2 ** c.clusterBits
  }

  /** @throws with what differs */
  async run(steps: number): Promise<void> {
    await this.#open()
    for (let step = 0; step < steps; step++) {
      await this.#step()
      await this.#checkMoment(this.#rnd(3) === 0)
      if (this.#rnd(5) === 0) await this.#verify()
    }
    await this.#verify()
    await this.#close()
    this.#compare()
  }

  get #opened(): BlockNode {
    if (this.#node === undefined) throw new Error('the image is not open')
    return this.#node
  }

  async #step(): Promise<void> {
    switch (this.#rnd(17)) {
      case 0:
      case 1:
        this.#tell('flush')
        await this.#opened.flush()
        this.#check(true)
        return
      case 2:
      case 6:
        return await this.#resize()
      case 3:
        await this.#close()
        if (this.#case.snapshots) this.#snapshot()
        return await this.#open()
      case 4:
        return await this.#reopen()
      case 5:
        return await this.#leave()
      default:
        return await this.#requests()
    }
  }

  async #open(): Promise<void> {
    this.#tell('open')
    this.#node = await this.#g.add(nodeSpec(this.#case, this.#image))
    if (this.#node.length() !== this.#disk.length)
      throw new Error(`${this.#node.length()} bytes instead of ${this.#disk.length}`)
  }

  async #close(): Promise<void> {
    this.#tell('close')
    await this.#g.graph.remove('disk')
    this.#node = undefined
    this.#check(true)
  }

  async #reopen(): Promise<void> {
    const runtime = pickRuntime(this.#rnd, this.#case.clusterBits)
    this.#tell(`reopen ${JSON.stringify(runtime)}`)
    await this.#g.graph.reopen([nodeSpec(this.#case, this.#image, runtime)])
    this.#check(true)
  }

  /** A user comes and goes: the image settles, and is looked at anew when the next one comes. */
  async #leave(): Promise<void> {
    this.#tell('claim and release')
    await this.#g.graph.freshen('disk')
    const claim = await this.#g.graph.claim('a test', this.#opened, {
      use: ['consistent read', 'write'],
      share: ['consistent read', 'write', 'write unchanged', 'resize'],
    })
    await this.#requests()
    await claim.release()
    this.#check(true)
  }

  async #resize(): Promise<void> {
    const before = this.#disk.length
    const by = SECTOR * this.#rnd([3, 300, 3000][this.#rnd(3)] as number)
    const length = this.#rnd(2) === 0 ? Math.max(SECTOR, before - by) : Math.min(8 << 20, before + by)
    this.#tell(`resize ${before} to ${length}`)
    const { version, backing } = this.#case
    const impossible =
      version === 2 && (this.#snapshots.size > 0 || (length > before && (backing?.size ?? 0) > before))
    try {
      await this.#g.graph.resize('disk', length)
    } catch (error) {
      if (!impossible) throw error
      return
    }
    const disk = Buffer.alloc(length)
    this.#disk.copy(disk)
    this.#disk = disk
    this.#check(true)
  }

  /** Some requests at once, on ranges that do not touch the same bytes. */
  async #requests(): Promise<void> {
    const used: Range[] = []
    const running: Promise<void>[] = []
    for (const slot of this.#slots.slice(0, 1 + this.#rnd(PARALLEL))) {
      const range = this.#range()
      const taken = used.some(
        ({ offset, length }) => offset < range.offset + range.length && range.offset < offset + length,
      )
      if (taken || range.length === 0) continue
      used.push(range)
      running.push(this.#request(slot, range))
    }
    await Promise.all(running)
  }

  #range(): Range {
    const rnd = this.#rnd
    const size = this.#disk.length
    const unit = rnd(4) === 0 ? 1 : SECTOR
    let offset = unit * rnd(Math.ceil(size / unit))
    let length = unit * (1 + rnd(([8, 64, 512, 2048][rnd(4)] as number) * (SECTOR / unit)))
    if (rnd(3) === 0) {
      offset -= offset % this.#cluster
      length = Math.ceil(length / this.#cluster) * this.#cluster
    }
    length = Math.min(length, size - offset, this.#g.engine.slotSize)
    return { offset, length }
  }

  #request(slot: number, { offset, length }: Range): Promise<void> {
    const kind = this.#rnd(10)
    const where = `${offset} + ${length}`
    if (kind < 5) return this.#write(slot, { offset, length }, 'write', {})
    if (kind < 7) return this.#write(slot, { offset, length }, 'write compressed', { compressed: true })
    if (kind < 9) {
      const unmap = this.#rnd(2) === 0
      this.#tell(`zero ${where}${unmap ? ' unmap' : ''}`)
      this.#disk.fill(0, offset, offset + length)
      return this.#opened.zero(offset, length, { unmap, fast: false })
    }
    this.#tell(`discard ${where}`)
    this.#discarded(offset, length)
    return this.#opened.discard(offset, length)
  }

  #write(slot: number, { offset, length }: Range, what: string, how: WriteHow): Promise<void> {
    const byte = 1 + this.#rnd(255)
    this.#tell(`${what} ${offset} + ${length} of ${byte}`)
    const bytes = this.#g.engine.slotBytes(slot)
    const noise = this.#rnd(8) === 0
    for (let i = 0; i < length; i++) bytes[i] = noise ? this.#rnd(256) : byte + ((offset + i) >> 9)
    this.#disk.set(bytes.subarray(0, length), offset)
    return this.#opened.write(offset, { slot, offset: 0, length }, how)
  }

  /** Whole clusters are gone, but where the format cannot say so or others read the data file. */
  #discarded(offset: number, length: number): void {
    const { version, backing, dataFile } = this.#case
    if (dataFile === 'raw' || (version === 2 && backing !== undefined)) return
    const start = Math.ceil(offset / this.#cluster) * this.#cluster
    const reachesEnd = offset + length === this.#disk.length
    const end = reachesEnd ? this.#disk.length : Math.floor((offset + length) / this.#cluster) * this.#cluster
    if (end > start) this.#disk.fill(0, start, end)
  }

  /** Takes, deletes or goes back to an internal snapshot while the image is closed. */
  #snapshot(): void {
    const names = [...this.#snapshots.keys()]
    const name = names[this.#rnd(names.length)]
    const what = this.#rnd(4)
    if (name === undefined || what < 2) {
      const fresh = `s${this.#taken++}`
      this.#tell(`snapshot ${fresh}`)
      if (this.#tryImage('-c', fresh)) this.#snapshots.set(fresh, Buffer.from(this.#disk))
    } else if (what === 2) {
      this.#tell(`snapshot ${name} deleted`)
      mustQemuImg('snapshot', '-d', name, this.#image)
      this.#snapshots.delete(name)
    } else if (this.#snapshots.get(name)?.length === this.#disk.length) {
      this.#tell(`snapshot ${name} applied`)
      if (this.#tryImage('-a', name)) this.#disk = Buffer.from(this.#snapshots.get(name) as Buffer)
    }
  }

  /** Refcounts of 8 bits or less do not count more uses, compressed clusters have many, and qemu-img leaves leaks then. */
  #tryImage(what: '-a' | '-c', snapshot: string): boolean {
    if (qemuImg('snapshot', what, snapshot, this.#image).status === 0) return true
    if (this.#case.refcountBits > 8) throw new Error(`qemu-img snapshot ${what} ${snapshot} failed`)
    qemuImg('check', '-r', 'leaks', this.#image)
    return false
  }

  /** @param flushed  nothing may be leaked then */
  #check(flushed: boolean): void {
    const found = oracle(this.#image)
    if (found.corruptions + found.checkErrors + (flushed ? found.leaks : 0) === 0) return
    throw new Error(`qemu-img check: ${JSON.stringify(found)}`)
  }

  /**
   * On a copy made at once, because the image may still be written meanwhile: what requests have freed is told after them.
   * @param both  qemu-img looks at it too
   */
  async #checkMoment(both: boolean): Promise<void> {
    const moment = `${this.#image}.now`
    copyFileSync(this.#image, moment)
    const [ours, theirs] = await Promise.all([this.#checker(moment), both ? oracleBeside(moment) : undefined])
    if (ours.corruptions + ours.checkErrors > 0) {
      const worse = ours.lines.filter((line) => !line.startsWith('Leaked'))
      throw new Error(`the image is not whole: ${worse.slice(0, 5).join('; ')}`)
    }
    if (theirs === undefined) return
    const [{ lines: _ours, ...found }, { lines: _theirs, ...wanted }] = [comparable(ours), theirs]
    if (isDeepStrictEqual(found, wanted)) return
    throw new Error(`the checkers differ: ${JSON.stringify(found)}, qemu-img: ${JSON.stringify(wanted)}`)
  }

  /** Reads all of the disk in pieces of random size. */
  async #verify(): Promise<void> {
    const slot = this.#slots[0] as number
    const { engine } = this.#g
    for (let offset = 0; offset < this.#disk.length; ) {
      const most = [4096, 65536, engine.slotSize][this.#rnd(3)] as number
      const length = Math.min(most - SECTOR * this.#rnd(most / SECTOR), this.#disk.length - offset)
      const into: Slice = { slot, offset: 0, length }
      const bytes = engine.slotBytes(slot).subarray(0, length)
      bytes.fill(0xee)
      await this.#opened.read(offset, into)
      same(bytes, this.#disk.subarray(offset, offset + length), offset, 'the disk')
      offset += length
    }
  }

  /** The closed image, as qemu-img reads it. */
  #compare(): void {
    const raw = `${this.#image}.model`
    writeFileSync(raw, this.#disk)
    const folder = this.#image.slice(0, this.#image.lastIndexOf('/'))
    for (const tools of qemuTools) {
      if (tools.absent !== false) continue
      tools.run(folder, 'qemu-img', 'check', '-q', '-f', 'qcow2', this.#image)
      tools.run(folder, 'qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', raw, this.#image)
    }
    if (this.#case.dataFile === 'raw') mustQemuImg('compare', '-f', 'raw', '-F', 'raw', raw, this.dataFile)
    for (const [name, content] of this.#snapshots) {
      mustQemuImg('convert', '-l', name, '-O', 'raw', this.#image, raw)
      const length = Math.min(content.length, this.#disk.length)
      same(readFileSync(raw).subarray(0, length), content.subarray(0, length), 0, `snapshot ${name}`)
    }
  }

  get dataFile(): string {
    return this.#image.replace('.qcow2', '.data')
  }

  #tell(text: string): void {
    this.story.push(text)
  }
}

function same(found: Uint8Array, wanted: Uint8Array, offset: number, what: string): void {
  if (Buffer.compare(found, wanted) === 0) return
  let at = 0
  while (found[at] === wanted[at]) at += 1
  throw new Error(`${what} at ${offset + at}: ${found[at]} instead of ${wanted[at]}`)
}
