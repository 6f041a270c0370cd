// SPDX-License-Identifier: Apache-2.0
// What a section that begins while RAM is open means to who only wants memory. Source: the SaveVMHandlers and
// VMStateDescriptions that QEMU 7.2 to 10.0 register for devices that can migrate.

import { unexpected } from './error-text.js'
import { refusals } from './refusals.js'
import { type NamedHead, titleOf } from './section.js'

export type SectionRole =
  | { readonly kind: 'ram' }
  /** Iterable, its bodies can be walked (dirty-bitmap.ts); kept when a stream is converted. */
  | { readonly kind: 'dirty-bitmap' }
  /** FULL, its length is known (virtio-mem.ts); has to stay in front of the first page. */
  | { readonly kind: 'virtio-mem' }
  /** The state of a device: RAM is complete, and from here on the stream is carried unread. */
  | { readonly kind: 'device' }
  /** The stream cannot be read any further: it can be stored as it is, not converted. */
  | { readonly kind: 'refuse'; readonly reason: string }

const RAM = 'ram'
const RAM_VERSION = 4
const VIRTIO_MEM = 'virtio-mem-device-early'

/**
 * @throws FormatError for RAM of another version, or not as an iterable section: no QEMU loads that
 */
export function sectionRole(head: NamedHead): SectionRole {
  if (head.name === RAM) return ramRole(head)
  if (head.kind === 'full') return { kind: isVirtioMemEarly(head.name) ? 'virtio-mem' : 'device' }
  if (head.name === 'dirty-bitmap') return { kind: 'dirty-bitmap' }
  return { kind: 'refuse', reason: refusalOf(head) }
}

/** Whether a section of this name comes in front of the pages, though it is FULL. */
export function isVirtioMemEarly(name: string): boolean {
  return name.endsWith(VIRTIO_MEM)
}

/** The head of START of RAM, as QEMU writes it. */
export function ramStart(id: number): NamedHead {
  return { kind: 'start', id, name: RAM, instance: 0, version: RAM_VERSION }
}

function ramRole(head: NamedHead): SectionRole {
  if (head.kind !== 'start') throw unexpected(titleOf(head), 'a FULL section', 'START')
  if (head.instance !== 0) throw unexpected(`instance of ${titleOf(head)}`, head.instance, 0)
  if (head.version !== RAM_VERSION) throw unexpected(`version of ${titleOf(head)}`, head.version, RAM_VERSION)
  return { kind: 'ram' }
}

function refusalOf(head: NamedHead): string {
  if (head.name === 'block') return refusals.blockMigration
  if (head.name.endsWith('/vfio')) return `${titleOf(head)}: ${refusals.vfio}`
  if (head.name === 'spapr/htab') return refusals.spapr
  if (head.name === 's390-stattrib') return refusals.s390
  return `${titleOf(head)} begins while memory is sent: such streams can only be stored as they are`
}
