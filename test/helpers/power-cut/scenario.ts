// SPDX-License-Identifier: Apache-2.0
// One image under one workload: made by qemu-img, used and recorded here, and judged after a power cut at chosen points.

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { mustQemuImg, qemuImg } from '../check-image.js'
import { random } from '../graph.js'
import { DiskBytes } from './disk-bytes.js'
import { BACKING, fillSectors, type GuestEvent, GuestModel } from './guest-model.js'
import { type Disks, type Lab, save } from './lab.js'
import { type DiskEvent, RecordedDisk, type Recording } from './recorded-disk.js'
import { Replay } from './replay.js'
import { type Shape, Workload } from './workload.js'

type Below = (below: number) => number

export interface Kind {
  readonly name: string
  /** For qemu-img create. */
  readonly options: string
  /** Of the disk, bytes. */
  readonly size: number
  readonly shape: Shape
  /** Of the backing file, bytes. */
  readonly backing?: number
  readonly dataFile?: true
  readonly snapshot?: true
  /** All of the disk is written first. */
  readonly full?: true
  /** Rounds of requests that are recorded; some are done before. */
  readonly rounds: number
}

/** Few slices, so that room for others is made by writing some. */
const TINY = { 'l2-cache-entry-size': 512, 'l2-cache-size': 1536, 'refcount-cache-size': 1024 }

export class Scenario {
  readonly kind: Kind
  readonly below: Below
  readonly #lab: Lab
  readonly #folder: string
  #backing: Buffer<ArrayBuffer> | undefined
  #initial: DiskBytes[] = []
  #sectors: number[] = []
  #stamp = BACKING + 1
  #snapshot: Buffer | undefined

  constructor(lab: Lab, folder: string, kind: Kind, seed: number) {
    this.#lab = lab
    this.#folder = folder
    this.kind = kind
    this.below = random(seed)
  }

  /** Makes the image and fills a part of it. */
  async prepare(): Promise<void> {
    const { options, size, backing, dataFile, snapshot } = this.kind
    const [image, data, below] = ['image', 'data', 'backing'].map((name) => join(this.#folder, name))
    for (const file of [image, data, below]) rmSync(file ?? '', { force: true })
    const more: string[] = []
    if (backing !== undefined) {
      this.#backing = Buffer.alloc(backing)
      fillSectors(this.#backing, 0, backing / 512, BACKING)
      save(below ?? '', new DiskBytes(this.#backing, true))
      more.push(`backing_file=${below},backing_fmt=raw`)
    }
    if (dataFile) more.push(`data_file=${data}`)
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', [options, ...more].join(), image ?? '', String(size))
    const files = dataFile ? [image, data] : [image]
    this.#initial = files.map((file, index) => new DiskBytes(readFileSync(file ?? ''), index > 0))
    const shown = (this.#backing?.length ?? 0) / 512
    this.#sectors = Array.from({ length: size / 512 }, (_, sector) => (sector < shown ? BACKING : 0))
    await this.#work(this.#newRecording(), this.kind.rounds, this.kind.full)
    if (!snapshot) return
    save(image ?? '', this.#initial[0] as DiskBytes)
    mustQemuImg('snapshot', '-c', 'one', image ?? '')
    this.#snapshot = this.#snapshotOf(image ?? '')
    this.#initial[0] = new DiskBytes(readFileSync(image ?? ''), false)
  }

  /** Works on the image with one request failing. @returns what was seen */
  async record(fault = 0): Promise<{ recording: Recording; workload: Workload }> {
    const recording = { ...this.#newRecording(), fault }
    const before = { initial: this.#initial, sectors: this.#sectors, stamp: this.#stamp }
    this.#initial = before.initial.map((disk) => disk.copy())
    const workload = await this.#work(recording, this.kind.rounds)
    this.#initial = before.initial
    this.#sectors = before.sectors
    return { recording, workload }
  }

  /**
   * Cuts the power at points of a recording.
   * @param points  how many at most; all when there are no more
   * @param external  whether qemu-img is asked too, and the image used again, at a point
   * @returns faults, empty when all is well
   */
  async cuts(recording: Recording, points: number, external: (point: number) => boolean): Promise<string[]> {
    const { log } = recording
    const replay = new Replay(
      this.#initial.map((disk) => disk.copy()),
      this.below,
    )
    const model = new GuestModel(this.#sectors)
    let judged = 0
    for (const [index, event] of log.entries()) {
      if (isGuest(event)) model.step(event)
      else replay.step(event)
      if (this.below(log.length) >= points) continue
      const fault = await this.#judge(replay.cut(), model, external(judged++))
      if (fault !== undefined) return [`cut after event ${index} of ${log.length}: ${fault}`]
    }
    return []
  }

  async #judge(cut: DiskBytes[], model: GuestModel, external: boolean): Promise<string | undefined> {
    const disks = this.#lab.disks(cut, this.#backing)
    try {
      const found = await this.#lab.check(disks.image)
      if (found.corruptions > 0 || found.checkErrors > 0) return found.lines.slice(0, 5).join('; ')
      const node = await this.#lab.open(disks, true)
      const fault = model.fault(await this.#lab.content(node))
      if (fault !== undefined) return fault
      if (!external) return undefined
      return this.#askQemu(cut) ?? (await this.#goOn(disks))
    } catch (error) {
      return String(error)
    }
  }

  /** An image that was left can be worked with. */
  async #goOn(disks: Disks): Promise<string | undefined> {
    const node = await this.#lab.open(disks, false, TINY)
    const workload = new Workload(this.#lab, node, this.#newRecording(), this.kind.shape, this.#stamp)
    await workload.run(4)
    await workload.close()
    const { corruptions, checkErrors, lines } = await this.#lab.check(disks.image)
    return corruptions + checkErrors === 0
      ? undefined
      : `used again after it: ${lines.slice(0, 5).join('; ')}`
  }

  #askQemu([image]: DiskBytes[]): string | undefined {
    const file = join(this.#folder, 'cut')
    save(file, image as DiskBytes)
    const { status, stderr } = qemuImg('check', '-q', '-f', 'qcow2', file)
    if (status !== 0 && status !== 3) return `qemu-img check: ${stderr}`
    if (this.#snapshot !== undefined && !this.#snapshotOf(file).equals(this.#snapshot))
      return 'the snapshot has changed'
    return undefined
  }

  #snapshotOf(image: string): Buffer {
    const raw = join(this.#folder, 'snapshot')
    mustQemuImg('convert', '-q', '-f', 'qcow2', '-l', 'one', '-O', 'raw', image, raw)
    return readFileSync(raw)
  }

  #newRecording(): Recording {
    return { log: [], below: this.below, requests: 0, fault: 0 }
  }

  /** Uses the disks as they are, from open to close. */
  async #work(recording: Recording, rounds: number, full = false): Promise<Workload> {
    const [image, data] = this.#initial.map(
      (disk, index) => new RecordedDisk(this.#lab.engine, disk, index, recording),
    )
    const disks: Disks = { image: image as RecordedDisk, data, backing: this.#backing }
    const node = await this.#lab.open(disks, false, TINY)
    const workload = new Workload(this.#lab, node, recording, this.kind.shape, this.#stamp)
    if (full) await workload.fill()
    await workload.run(rounds)
    await workload.flush()
    this.#stamp = workload.stamp
    await workload.close()
    if (recording.failed !== undefined) return workload
    const model = new GuestModel(this.#sectors)
    for (const event of recording.log) if (isGuest(event)) model.step(event)
    const content = await this.#lab.content(await this.#lab.open(disks, true))
    const fault = model.fault(content)
    if (fault !== undefined) workload.faults.push(`without any cut: ${fault}`)
    this.#sectors = model.settled(content)
    return workload
  }
}

function isGuest(event: DiskEvent | GuestEvent): event is GuestEvent {
  return event.kind.startsWith('guest')
}
