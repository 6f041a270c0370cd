// SPDX-License-Identifier: Apache-2.0
// Checks a qcow2 image, and repairs it where that is asked for: counts every reference, compares them with the refcounts,
// looks at the COPIED flags. Works on the bytes of the image file; no qcow2 node is needed, and none may write meanwhile.
// Used by jobs/check.ts. Counters, texts and what is repaired are those of `qemu-img check`.
//
// Repair, in this order, with a flush between the steps: entries that refer to nothing usable become zero; refcounts are
// raised and lowered, or built anew; COPIED flags; the snapshot table; the dirty and the corrupt mark go last.

import { FormatError } from '../../../../../../protocol/format-error.js'
import { viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { type Header, Incompatible, MAX_L1 } from '../../../../../../protocol/qcow2/header.js'
import type { CheckResult } from '../../../../messages.js'
import { type BitmapTable, countBitmaps, readBitmaps } from './bitmap-tables.js'
import { compareRefcounts } from './compare.js'
import { checkCopied } from './copied.js'
import { Findings } from './findings.js'
import { countAgain, countTables, type L1Table, type SoundTables } from './guest-tables.js'
import { type Checked, countRange, encryptionArea, hex, type Repair, readHeader } from './image.js'
import { type CheckIo, ImageBytes } from './image-bytes.js'
import { protection } from './protection.js'
import { rebuildRefcounts } from './rebuild.js'
import { Refcounts } from './refcounts.js'
import { ReferenceCounts } from './reference-counts.js'
import { NO_SNAPSHOTS, readSnapshots, replaceSnapshotTable } from './snapshot-table.js'

/** Where the incompatible features stand in the header. */
const FEATURES = 72

export interface CheckProgress {
  /** Steps done and to be done. */
  done: number
  total: number
}

/**
 * @param io  `node` holds the bytes of the image; writable for a repair
 * @throws FormatError when the image cannot even be opened, or would need too much memory; IoError; Cancelled
 */
export async function checkQcow2(io: CheckIo, repair: Repair, progress: CheckProgress): Promise<CheckResult> {
  const bytes = new ImageBytes(io)
  const header = await readHeader(bytes)
  const checked: Checked = {
    bytes,
    header,
    clusterSize: 2 ** header.clusterBits,
    extended: header.incompatible.has(Incompatible.extendedL2),
    dataFile: header.incompatible.has(Incompatible.dataFile),
    repair,
    findings: new Findings(),
    counts: new ReferenceCounts(),
  }
  checked.findings.totalClusters = Math.ceil(header.size / checked.clusterSize)
  await new Check(checked, progress).run()
  return checked.findings.result()
}

class Check {
  readonly #checked: Checked
  readonly #progress: CheckProgress
  #snapshots = NO_SNAPSHOTS
  #bitmaps: BitmapTable | undefined

  constructor(checked: Checked, progress: CheckProgress) {
    this.#checked = checked
    this.#progress = progress
  }

  async run(): Promise<void> {
    const { findings, repair } = this.#checked
    this.#bitmaps = await readBitmaps(this.#checked)
    if (!(await this.#readSnapshots())) return
    const refcounts = await Refcounts.load(this.#checked)
    this.#progress.total = this.#snapshots.snapshots.length + 6
    await this.#count(refcounts)
    const before = { ...findings.result() }
    await this.#step(compareRefcounts(this.#checked, refcounts, { leaks: false, errors: false }))
    const current = await this.#mend(refcounts, before)
    if (current === undefined) return
    const protects = this.#protection(current)
    await this.#step(checkCopied(this.#checked, current, protects))
    await this.#step(this.#mendSnapshots(current))
    if (repair !== 'none' && findings.checkErrors === 0 && findings.corruptions === 0) await this.#markClean()
    this.#progress.done = this.#progress.total
  }

  /** @returns whether there is a table that can be gone by */
  async #readSnapshots(): Promise<boolean> {
    const { findings } = this.#checked
    try {
      this.#snapshots = await readSnapshots(this.#checked)
      const { flaws, damaged } = this.#snapshots
      const verb = this.#checked.repair === 'all' && !damaged ? 'Repairing' : 'ERROR'
      for (const flaw of flaws) findings.say(`${verb} ${flaw}`)
      return true
    } catch (error) {
      if (!(error instanceof FormatError)) throw error
      findings.checkErrors += 1
      findings.say(`ERROR failed to read the snapshot table: ${error.message}`)
      return false
    }
  }

  async #step(work: Promise<void>): Promise<void> {
    await work
    this.#progress.done += 1
  }

  /** Every reference there is. */
  async #count(refcounts: Refcounts): Promise<void> {
    await this.#countAllButRefcounts(this.#protection(refcounts))
    const { header, clusterSize, bytes } = this.#checked
    await bytes.flush()
    countRange(this.#checked, header.refcountTableOffset, header.refcountTableClusters * clusterSize)
    await this.#step(refcounts.countBlocks())
  }

  async #countAllButRefcounts(protects: (offset: number) => boolean): Promise<void> {
    const checked = this.#checked
    const { header, clusterSize, findings, dataFile } = checked
    countRange(checked, 0, clusterSize)
    const active: L1Table = { offset: header.l1Offset, size: header.l1Size, active: true }
    const sound: SoundTables = new Map()
    await this.#step(countTables(checked, active, sound, protects))
    const { snapshots, length } = this.#snapshots
    if (dataFile && snapshots.length > 0)
      findings.corruption(`ERROR ${snapshots.length} snapshots in image with data file`)
    for (const { id, name, l1Offset, l1Size } of snapshots) {
      const which = `ERROR snapshot ${id} (${name})`
      // What is not exact is beyond any file.
      if (l1Offset % clusterSize !== 0 || !Number.isSafeInteger(l1Offset))
        findings.corruption(
          `${which} l1_offset=0x${hex(l1Offset)}: L1 table is not cluster aligned; snapshot table entry corrupted`,
        )
      else if (l1Size * 8 > MAX_L1)
        findings.corruption(
          `${which} l1_size=0x${hex(l1Size)}: L1 table is too large; snapshot table entry corrupted`,
        )
      else {
        const table: L1Table = { offset: l1Offset, size: l1Size, active: false }
        await this.#step(countTables(checked, table, sound, protects))
      }
    }
    await countAgain(checked, sound)
    countRange(checked, header.snapshotsOffset, length)
    const area = encryptionArea(header)
    if (area !== undefined) countRange(checked, area.offset, area.length)
    if (this.#bitmaps !== undefined) await countBitmaps(checked, this.#bitmaps)
    this.#progress.done += 1
  }

  /** @returns the refcounts that count from now on; undefined when the check is over */
  async #mend(refcounts: Refcounts, before: CheckResult): Promise<Refcounts | undefined> {
    const { findings, repair } = this.#checked
    if (repair === 'none') return refcounts
    if (this.#snapshots.damaged) {
      // What belongs to such a snapshot looks like a leak, and would be lost.
      findings.say('ERROR the snapshot table is damaged: nothing is repaired')
      this.#checked.repair = 'none'
      return refcounts
    }
    if (findings.rebuild && repair === 'leaks') {
      findings.checkErrors += 1
      findings.corruptions += this.#snapshots.corruptions
      findings.say('ERROR need to rebuild refcount structures')
      return undefined
    }
    if (findings.rebuild) return await this.#rebuild()
    if (findings.leaks === 0 && findings.corruptions === 0) return refcounts
    findings.leaks = before.leaks
    findings.corruptions = before.corruptions
    await compareRefcounts(this.#checked, refcounts, { leaks: true, errors: repair === 'all' })
    await refcounts.save()
    return refcounts
  }

  /** Flaws of the snapshot table count last: what is counted before is compared with what refcounts say. */
  async #mendSnapshots(refcounts: Refcounts): Promise<void> {
    const { findings, repair } = this.#checked
    const { corruptions } = this.#snapshots
    if (corruptions === 0) return
    if (repair === 'all' && findings.checkErrors === 0) {
      try {
        await replaceSnapshotTable(this.#checked, refcounts, this.#snapshots)
        findings.corruptionsFixed += corruptions
        return
      } catch (error) {
        if (!(error instanceof FormatError)) throw error
        findings.checkErrors += 1
        findings.say(`ERROR failed to update snapshot table: ${error.message}`)
      }
    }
    findings.corruptions += corruptions
  }

  async #rebuild(): Promise<Refcounts> {
    const { findings, header } = this.#checked
    findings.say('Rebuilding refcount structure')
    const { leaks, corruptions } = findings
    const silent = new Findings()
    const counts = new ReferenceCounts()
    await new Check(
      { ...this.#checked, findings: silent, counts, repair: 'none' },
      { done: 0, total: 0 },
    ).#recount(this)
    const built = await rebuildRefcounts({ ...this.#checked, counts })
    const renewed: Header = {
      ...header,
      refcountTableOffset: built.offset,
      refcountTableClusters: built.clusters,
    }
    this.#checked.header = renewed
    this.#checked.counts = counts
    // What is wrong with the tables themselves is still wrong; all else was put right.
    findings.leaks = 0
    findings.corruptions = silent.corruptions
    findings.leaksFixed += leaks
    findings.corruptionsFixed += corruptions - silent.corruptions
    findings.rebuild = false
    const refcounts = await Refcounts.load(this.#checked)
    await compareRefcounts(this.#checked, refcounts, { leaks: false, errors: false })
    if (findings.rebuild) findings.say('ERROR rebuilt refcount structure is still broken')
    return refcounts
  }

  /** All references but those of the refcount structures, with the tables that another check has read. */
  async #recount(other: Check): Promise<void> {
    this.#snapshots = other.#snapshots
    this.#bitmaps = other.#bitmaps
    await this.#countAllButRefcounts(() => true)
  }

  #protection(refcounts: Refcounts): (offset: number) => boolean {
    return protection(this.#checked, this.#snapshots, this.#bitmaps, refcounts)
  }

  async #markClean(): Promise<void> {
    const { bytes, header } = this.#checked
    if (header.version === 2) return
    const { dirty, corrupt } = Incompatible
    if (!header.incompatible.has(dirty) && !header.incompatible.has(corrupt)) return
    await bytes.flush()
    const field = await bytes.read(FEATURES, 8)
    const view = viewOf(field)
    view.setUint8(7, view.getUint8(7) & ~((1 << dirty) | (1 << corrupt)))
    await bytes.write(FEATURES, field)
    await bytes.flush()
  }
}
