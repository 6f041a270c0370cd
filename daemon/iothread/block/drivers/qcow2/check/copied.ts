// SPDX-License-Identifier: Apache-2.0
// The COPIED flag: set in L1 and L2 entries of the active disk exactly where the refcount is one. Used by check.ts after the
// refcounts were compared, and mended where that was asked for.

import { viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { parseL1Entry } from '../../../../../../protocol/qcow2/entries.js'
import { type Checked, rawHex } from './image.js'
import { checkedEntry, setCopied } from './l2-entry.js'
import type { Refcounts } from './refcounts.js'

/** @param protects  whether a cluster belongs to other metadata, and must not be written as an L2 table */
export async function checkCopied(
  checked: Checked,
  refcounts: Refcounts,
  protects: (offset: number) => boolean,
): Promise<void> {
  const { bytes, header, findings } = checked
  const mend = mayMend(checked)
  const view = viewOf(await bytes.read(header.l1Offset, header.l1Size * 8))
  let changed = false
  for (let at = 0; at < view.byteLength; at += 8) {
    if (bytes.tired) await bytes.rest()
    const { offset, copied } = parseL1Entry(view, at)
    if (offset === 0) continue
    const refcount = await refcounts.get(Math.floor(offset / checked.clusterSize))
    if (refcount === undefined) continue
    if ((refcount === 1) !== copied) {
      findings.say(
        `${mend ? 'Repairing' : 'ERROR'} OFLAG_COPIED L2 cluster: l1_index=${at / 8} ` +
          `l1_entry=${rawHex(view, at)} refcount=${refcount}`,
      )
      if (mend) {
        setCopied(view, at, refcount === 1)
        changed = true
        findings.corruptionsFixed += 1
      } else findings.corruptions += 1
    }
    await checkTable(checked, refcounts, offset, mend && !protects(offset))
  }
  if (changed) await bytes.write(header.l1Offset, new Uint8Array(view.buffer))
  await bytes.flush()
}

/** Flags follow from refcounts, so those must be right: after a repair of everything they are. */
function mayMend({ repair, findings }: Checked): boolean {
  if (repair === 'all') return true
  const clean = findings.checkErrors === 0 && findings.corruptions === 0 && findings.leaks === 0
  return repair === 'leaks' && clean
}

async function checkTable(
  checked: Checked,
  refcounts: Refcounts,
  offset: number,
  mend: boolean,
): Promise<void> {
  const { bytes, clusterSize, extended, dataFile, header, findings } = checked
  const view = viewOf(await bytes.read(offset, clusterSize))
  const layout = { clusterBits: header.clusterBits, extended, dataFile }
  let changed = false
  for (let at = 0; at < clusterSize; at += extended ? 16 : 8) {
    if (at % 8192 === 0 && bytes.tired) await bytes.rest()
    const entry = checkedEntry(view, at, layout)
    if (entry.kind !== 'cluster') continue
    const found = dataFile ? 1 : refcounts.get(Math.floor(entry.offset / clusterSize))
    const refcount = typeof found === 'object' ? await found : found
    if (refcount === undefined || (refcount === 1) === entry.copied) continue
    findings.say(
      `${mend ? 'Repairing' : 'ERROR'} OFLAG_COPIED data cluster: l2_entry=${rawHex(view, at)} refcount=${refcount}`,
    )
    if (mend) {
      setCopied(view, at, refcount === 1)
      changed = true
      findings.corruptionsFixed += 1
    } else findings.corruptions += 1
  }
  if (changed) await bytes.write(offset, new Uint8Array(view.buffer))
}
