// SPDX-License-Identifier: Apache-2.0
// Opens qcow2 images over devices in memory, for recordings and for what a power cut left of them.

import { writeFileSync } from 'node:fs'
import type { Test } from 'tap'
import { NodeBitmaps } from '../../../daemon/iothread/block/bitmaps/node-bitmaps.js'
import type { BlockDriver } from '../../../daemon/iothread/block/driver.js'
import { DriverBuffers } from '../../../daemon/iothread/block/driver-buffers.js'
import { checkQcow2 } from '../../../daemon/iothread/block/drivers/qcow2/check/check.js'
import type { Repair } from '../../../daemon/iothread/block/drivers/qcow2/check/image.js'
import { openQcow2 } from '../../../daemon/iothread/block/drivers/qcow2/open.js'
import { BlockNode } from '../../../daemon/iothread/block/node.js'
import type { OpenContext } from '../../../daemon/iothread/block/open.js'
import { nodeOptions } from '../../../daemon/iothread/block/options.js'
import { Buffers } from '../../../daemon/iothread/copy/buffers.js'
import type { CheckResult } from '../../../daemon/iothread/messages.js'
import { createEngine } from '../../../native/engine.js'
import type { IoEngine } from '../../../native/types.js'
import { DiskBytes } from './disk-bytes.js'
import { RecordedDisk, type Recording } from './recorded-disk.js'

const MiB = 2 ** 20

/** An image, its data file where it has one, and what is below it. */
export interface Disks {
  readonly image: BlockDriver
  readonly data: BlockDriver | undefined
  readonly backing: Buffer<ArrayBuffer> | undefined
}

export class Lab {
  readonly engine: IoEngine = createEngine({ aio: 'threads', slotSize: MiB, maxSlots: 24 })
  readonly slots: readonly number[] = this.engine.takeSlots(6)
  /** What was found corrupt. */
  readonly corrupt: string[] = []
  readonly #buffers = new DriverBuffers(this.engine)
  readonly #checkSlots = new Buffers(this.engine)

  constructor(t: Test) {
    t.teardown(() => this.engine.shutdown(5000))
  }

  /** Devices without a log, from the bytes after a cut. */
  disks(cut: readonly DiskBytes[], backing: Buffer<ArrayBuffer> | undefined): Disks {
    const quiet: Recording = { log: [], below: () => 0, requests: 0, fault: 0 }
    const [image, data] = cut.map((disk, index) => new RecordedDisk(this.engine, disk, index, quiet))
    if (image === undefined) throw new Error('no image')
    return { image, data, backing }
  }

  /** A qcow2 node. @param options  caches and the like */
  async open(disks: Disks, readOnly: boolean, options: object = {}): Promise<BlockNode> {
    const spec = {
      driver: 'qcow2',
      'node-name': 'disk',
      'read-only': readOnly,
      discard: 'unmap',
      // A timer would keep a node that nobody closes, and its disks, in memory.
      'cache-clean-interval': 0,
      ...options,
      backing: disks.backing === undefined ? null : 'backing',
    }
    const bitmaps = new NodeBitmaps()
    const context = {
      bitmaps,
      formatBuffers: () => this.#buffers,
      corrupted: (text: string) => this.corrupt.push(text),
    } as unknown as OpenContext
    const children = new Map([['file', this.node('file', disks.image, readOnly)]])
    if (disks.data !== undefined) children.set('data-file', this.node('data', disks.data, readOnly))
    const below = disks.backing && this.disks([new DiskBytes(disks.backing, true)], undefined).image
    if (below !== undefined) children.set('backing', this.node('backing', below, true))
    const nodes = Object.fromEntries(children) as unknown as Parameters<typeof openQcow2>[3]
    const driver = await openQcow2(spec, nodeOptions(spec), context, nodes)
    return new BlockNode('disk', driver, nodeOptions(spec), () => false, bitmaps)
  }

  async check(image: BlockDriver, repair: Repair = 'none'): Promise<CheckResult> {
    const node = this.node('file', image, repair === 'none')
    const io = { node, engine: this.engine, slots: this.#checkSlots, pausePoint: async () => undefined }
    return await checkQcow2(io, repair, { done: 0, total: 1 })
  }

  /** All bytes of a disk. */
  async content(node: BlockNode): Promise<Buffer<ArrayBuffer>> {
    const [slot = 0] = this.slots
    const bytes = Buffer.alloc(node.length())
    for (let at = 0; at < bytes.length; at += MiB) {
      const length = Math.min(MiB, bytes.length - at)
      this.engine.slotBytes(slot).fill(0xee, 0, length)
      await node.read(at, { slot, offset: 0, length })
      bytes.set(this.engine.slotBytes(slot).subarray(0, length), at)
    }
    return bytes
  }

  /** A node over a device. */
  node(name: string, driver: BlockDriver, readOnly: boolean): BlockNode {
    const options = nodeOptions({
      driver: 'x-memory',
      'node-name': name,
      'read-only': readOnly,
      discard: 'unmap',
    })
    return new BlockNode(name, driver, options, () => false)
  }
}

export function save(path: string, disk: DiskBytes): void {
  writeFileSync(path, disk.bytes)
}
