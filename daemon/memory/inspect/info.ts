// SPDX-License-Identifier: Apache-2.0
// What a file is, for `blockferry memory info`: told as far as it goes, also of files that cannot be loaded.

import type { JsonObject } from '../../../protocol/json-value.js'
import type { Configuration } from '../../../protocol/migration/configuration.js'
import type { SaveImage } from '../../../protocol/migration/libvirt-save.js'
import { countPages } from '../../../protocol/migration/mapped-bitmap.js'
import { qemuHints } from '../../../protocol/migration/qemu-hints.js'
import { listedBlocks } from './front.js'
import type { Inspection } from './inspection.js'
import { deviceSections, earlySections, type SectionFacts } from './sections.js'

/** Bytes of a UUID in front of which a hyphen stands. */
const UUID_GROUPS = [4, 6, 8, 10]

/** @throws IoError, Cancelled */
export async function info(inspection: Inspection): Promise<JsonObject> {
  await inspection.read(false)
  const { file, front, offset, problem, changed, ends } = inspection
  const { configuration, image, save } = front
  const missing = problem === undefined ? undefined : await missingBytes(inspection)
  return {
    'file-size': file.length,
    'allocated-size': file.allocated,
    ...(front.format !== undefined && { format: front.format }),
    offset,
    ...(image !== undefined && { 'stream-offset': image.base }),
    complete: problem === undefined,
    ...(problem !== undefined && { problem }),
    ...(missing !== undefined && { 'missing-bytes': missing }),
    ...(save !== undefined && { libvirt: libvirtFacts(save) }),
    ...(configuration !== undefined && configurationFacts(configuration, inspection)),
    blocks: await blockFacts(inspection),
    ...(changed > 0 && { 'changed-pages': changed }),
    ...(ends !== undefined && { 'states-offset': ends.tailOffset, 'states-length': inspection.tailLength }),
    ...sectionFacts(inspection),
  }
}

function libvirtFacts({ header, xml, cookie }: SaveImage): JsonObject {
  const name = /<name>([^<]*)<\/name>/.exec(xml)?.[1]
  return {
    ...(name !== undefined && { name }),
    complete: header.complete,
    'was-running': header.wasRunning,
    version: header.version,
    cookie: cookie !== undefined,
  }
}

function configurationFacts(configuration: Configuration, inspection: Inspection): JsonObject {
  const { machine, capabilities = [], uuid } = configuration
  const { head } = inspection
  const syncPerWalk = head?.syncPerWalk ?? false
  const hints = qemuHints({ configuration, commands: inspection.commands(), syncPerWalk })
  return {
    machine,
    ...(head !== undefined && { 'page-size': head.pageSize }),
    capabilities: [...capabilities],
    ...(uuid !== undefined && { uuid: uuidText(uuid) }),
    hints: hints.map(({ atLeast, because }) => ({ 'at-least': atLeast, because })),
  }
}

/** Pages are told as far as the file was read. */
async function blockFacts(inspection: Inspection): Promise<JsonObject[]> {
  const { file, front, head, places, ends } = inspection
  const { image, configuration } = front
  if (head !== undefined)
    return head.blocks.map(({ name, length }, index) => {
      const pages = length / head.pageSize
      const set = countPages(places[index]?.bitmap ?? new Uint8Array(), pages)
      const mapped = ends?.shape?.layout.blocks[index]?.mapped
      const where = mapped === undefined ? {} : { 'pages-offset': mapped.pagesOffset }
      return { name, length, 'set-pages': set, 'zero-pages': pages - set, ...where }
    })
  if (image?.layout !== 'mapped-ram' || configuration === undefined) return []
  const { blocks } = await listedBlocks(file, image.base, configuration)
  return blocks.map(({ name, usedLength, mapped }) => ({
    ...{ name, length: usedLength, 'pages-offset': mapped.pagesOffset },
  }))
}

/** Of a mapped-ram file the pages that lie behind its end; of a stream nobody can know. */
async function missingBytes({ file, front }: Inspection): Promise<number | undefined> {
  const { image, configuration } = front
  if (image?.layout !== 'mapped-ram' || configuration === undefined) return undefined
  const { end } = await listedBlocks(file, image.base, configuration)
  return end > file.length ? end - file.length : undefined
}

function sectionFacts(inspection: Inspection): JsonObject {
  const tail = inspection.tailBytes()
  const early = earlySections(inspection.early).map(sectionFact)
  const commands = inspection.commands()
  const before = { ...(early.length > 0 && { early }), ...(commands.length > 0 && { commands }) }
  if (inspection.ends === undefined) return before
  if (tail === undefined)
    return { ...before, 'sections-problem': 'the states of devices are too long to be looked at' }
  const { sections, problem } = deviceSections(tail, inspection.ends.tailOffset, inspection.openSections())
  return {
    ...before,
    sections: sections.map(sectionFact),
    ...(problem !== undefined && { 'sections-problem': problem }),
  }
}

function sectionFact({ name, instance, version, offset, length }: SectionFacts): JsonObject {
  return {
    ...{ name, instance },
    ...(version !== undefined && { version }),
    ...(offset !== undefined && { offset }),
    length,
  }
}

function uuidText(uuid: Uint8Array): string {
  const digits = [...uuid].map((byte) => byte.toString(16).padStart(2, '0'))
  return digits.map((pair, index) => (UUID_GROUPS.includes(index) ? `-${pair}` : pair)).join('')
}
