// SPDX-License-Identifier: Apache-2.0
// One image under one script: made by qemu-img, used and recorded here, and judged wherever the power is cut.

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Incompatible, parseHeader } from '../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle } from '../check-image.js'
import { DiskBytes } from './disk-bytes.js'
import { everyCut, type Found, isGuest, ofGuest, type Tried } from './every-cut.js'
import { BACKING, fillSectors, GuestModel } from './guest-model.js'
import { type Lab, save } from './lab.js'
import { RecordedDisk, type Recording } from './recorded-disk.js'
import { Script, type Step } from './script.js'

export interface ScriptedKind {
  readonly name: string
  /** For qemu-img create. */
  readonly options: string
  /** Of the disk, sectors. */
  readonly size: number
  /** Of the backing file, sectors. */
  readonly backing?: number
  readonly dataFile?: true
  /** Done before, and before a snapshot is taken. */
  readonly before?: readonly Step[]
  readonly snapshot?: true
  /** Changes the file after all that, outside. */
  readonly change?: (file: string) => void
  /** Of the node. */
  readonly runtime?: object
  readonly steps: readonly Step[]
}

/** Of those that differ, one in so many is shown to qemu-img, and used again. */
const SAMPLE = 60

export class ScriptedImage {
  readonly #lab: Lab
  readonly #kind: ScriptedKind
  readonly #files: { readonly image: string; readonly data: string; readonly backing: string }
  readonly #cut: string
  #backing: Buffer<ArrayBuffer> | undefined
  #disks: DiskBytes[] = []
  #sectors: number[] = []
  #stamp = BACKING + 1
  #snapshot: Buffer | undefined

  constructor(lab: Lab, folder: string, kind: ScriptedKind) {
    this.#lab = lab
    this.#kind = kind
    const [image, data, backing] = ['image', 'data', 'backing'].map((name) => join(folder, name))
    this.#files = { image: image ?? '', data: data ?? '', backing: backing ?? '' }
    this.#cut = join(folder, 'cut')
  }

  async prepare(): Promise<void> {
    const { options, size, backing, dataFile, before = [], snapshot, change } = this.#kind
    const { image, data } = this.#files
    const more: string[] = []
    if (backing !== undefined) {
      this.#backing = Buffer.alloc(backing * 512)
      fillSectors(this.#backing, 0, backing, BACKING)
      save(this.#files.backing, new DiskBytes(this.#backing, true))
      more.push(`backing_file=${this.#files.backing},backing_fmt=raw`)
    }
    if (dataFile) more.push(`data_file=${data}`)
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', [options, ...more].join(), image, String(size * 512))
    this.#load()
    this.#sectors = Array.from({ length: size }, (_, sector) => (sector < (backing ?? 0) ? BACKING : 0))
    await this.#work(before)
    if (!snapshot && change === undefined) return
    this.#save()
    if (snapshot) {
      mustQemuImg('snapshot', '-c', 'one', image)
      this.#snapshot = this.#snapshotOf(image)
    }
    change?.(image)
    this.#load()
  }

  /** Records the script, and cuts the power at every point of it. */
  async try(): Promise<Tried> {
    const initial = this.#disks.map((disk) => disk.copy())
    const model = new GuestModel(this.#sectors)
    const recording = await this.#work(this.#kind.steps)
    return await everyCut({
      ...{ recording, initial, expected: ofGuest(model) },
      judge: (disks, number) => this.#judge(disks, number),
    })
  }

  /** Uses the disks as they are, from open to close. */
  async #work(steps: readonly Step[]): Promise<Recording> {
    const recording: Recording = { log: [], below: () => 0, requests: 0, fault: 0 }
    const [image, data] = this.#disks.map(
      (disk, index) => new RecordedDisk(this.#lab.engine, disk, index, recording),
    )
    const disks = { image: image as RecordedDisk, data, backing: this.#backing }
    const node = await this.#lab.open(disks, false, this.#kind.runtime)
    const script = new Script(this.#lab, node, recording, this.#stamp)
    await script.run(steps)
    await script.run([['flush']])
    this.#stamp = script.stamp
    await node.driver.close()
    const model = new GuestModel(this.#sectors)
    for (const event of recording.log) if (isGuest(event)) model.step(event)
    const content = await this.#lab.content(await this.#lab.open(disks, true))
    const fault = model.fault(content)
    if (fault !== undefined) throw new Error(`without any cut: ${fault}`)
    this.#sectors = model.settled(content)
    return recording
  }

  async #judge(cut: readonly DiskBytes[], number: number): Promise<Found> {
    const disks = this.#lab.disks(cut, this.#backing)
    try {
      const { corruptions, checkErrors, leaks, lines } = await this.#lab.check(disks.image)
      const content = await this.#lab.content(await this.#lab.open(disks, true))
      const damage = corruptions + checkErrors > 0
      const fault = damage ? await this.#repair(cut, content, lines) : undefined
      if (fault !== undefined) return { fault }
      if (this.#lab.corrupt.length > 0) return { fault: this.#lab.corrupt.splice(0).join('; ') }
      if (number % SAMPLE > 0) return { content }
      const more = this.#askQemu(cut, { corruptions, leaks }) ?? (damage ? undefined : await this.#goOn(cut))
      return more === undefined ? { content } : { fault: more }
    } catch (error) {
      return { fault: String(error) }
    }
  }

  /** Counts may be wrong while the image says so: the next who changes anything puts them right first. */
  async #repair(
    cut: readonly DiskBytes[],
    content: Buffer,
    lines: readonly string[],
  ): Promise<string | undefined> {
    const bytes = cut[0]?.bytes ?? Buffer.alloc(0)
    if (!parseHeader(bytes).incompatible.has(Incompatible.dirty)) return lines.slice(0, 5).join('; ')
    const copies = cut.map((disk) => disk.copy())
    await this.#use(copies, [['write', 0, 1]])
    const again = this.#lab.disks(copies, this.#backing)
    const { corruptions, checkErrors, leaks } = await this.#lab.check(again.image)
    if (corruptions + checkErrors + leaks > 0) return 'not clean after the repair'
    const after = await this.#lab.content(await this.#lab.open(again, true))
    return after.subarray(512).equals(content.subarray(512)) ? undefined : 'the repair changes the disk'
  }

  /** An image that was left can be worked with. */
  async #goOn(cut: readonly DiskBytes[]): Promise<string | undefined> {
    const copies = cut.map((disk) => disk.copy())
    await this.#use(copies, [['write', 1, 30], ['flush'], ['zero', 3, 20], ['write', 40, 9]])
    const { corruptions, checkErrors, lines } = await this.#lab.check(
      this.#lab.disks(copies, this.#backing).image,
    )
    return corruptions + checkErrors === 0
      ? undefined
      : `used again after it: ${lines.slice(0, 5).join('; ')}`
  }

  async #use(cut: readonly DiskBytes[], steps: readonly Step[]): Promise<void> {
    const recording: Recording = { log: [], below: () => 0, requests: 0, fault: 0 }
    const node = await this.#lab.open(this.#lab.disks(cut, this.#backing), false, this.#kind.runtime)
    await new Script(this.#lab, node, recording, 1_000_000).run(steps)
    await node.driver.close()
  }

  #askQemu([image]: readonly DiskBytes[], ours: { corruptions: number; leaks: number }): string | undefined {
    save(this.#cut, image as DiskBytes)
    const { corruptions, leaks, checkErrors } = oracle(this.#cut)
    if (checkErrors > 0 || corruptions !== ours.corruptions || leaks !== ours.leaks)
      return `qemu-img finds ${corruptions} corruptions and ${leaks} leaks, not ${JSON.stringify(ours)}`
    if (this.#snapshot !== undefined && !this.#snapshotOf(this.#cut).equals(this.#snapshot))
      return 'the snapshot has changed'
    return undefined
  }

  #snapshotOf(image: string): Buffer {
    const raw = `${this.#files.image}.raw`
    mustQemuImg('convert', '-q', '-f', 'qcow2', '-l', 'one', '-O', 'raw', image, raw)
    const bytes = readFileSync(raw)
    rmSync(raw)
    return bytes
  }

  #load(): void {
    const files = this.#kind.dataFile ? [this.#files.image, this.#files.data] : [this.#files.image]
    this.#disks = files.map((file, index) => new DiskBytes(readFileSync(file), index > 0))
  }

  #save(): void {
    for (const [index, disk] of this.#disks.entries())
      save(index === 0 ? this.#files.image : this.#files.data, disk)
  }
}
