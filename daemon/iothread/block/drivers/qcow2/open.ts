// SPDX-License-Identifier: Apache-2.0
// Opening a qcow2 image: reads the header, the L1 table and the tables of snapshots and bitmaps. Used by the table of drivers.

import { Incompatible } from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'
import type { NodeSpec } from '../../../messages.js'
import { MappedDriver } from '../../mapped.js'
import type { ChildNodes, OpenContext } from '../../open.js'
import type { NodeOptions } from '../../options.js'
import { Image, type ImageEnv } from './image.js'
import { checkWritable, loadShown } from './load.js'
import {
  cacheSizes,
  checkFormatOptions,
  cleanInterval,
  guardsSnapshots,
  shownSnapshot,
  tasksOption,
} from './options.js'
import { Qcow2Map } from './qcow2-map.js'
import { checkNamed } from './same-image.js'

/**
 * @throws CommandError naming what is wrong with the image or the options
 * @throws IoError
 */
export async function openQcow2(
  spec: NodeSpec,
  options: NodeOptions,
  context: OpenContext,
  children: ChildNodes,
): Promise<MappedDriver> {
  const { file, backing, 'data-file': dataFile } = children
  if (file === undefined) throw new CommandError("Parameter 'file' is missing")
  const name = spec['node-name']
  const readOnly = () => options.readOnly || file.readOnly
  const buffers = context.formatBuffers()
  const corrupted: ImageEnv['corrupted'] = (text, at) => context.corrupted(text, at)
  const snapshot = shownSnapshot(spec, options.readOnly)
  const shown = snapshot && { snapshot }
  const env: ImageEnv = { name, file, dataFile, readOnly, buffers, corrupted, ...shown }
  const header = await loadShown(env)
  // On reopening the file is still as it was.
  const reading = context.previous === undefined ? readOnly() : options.readOnly
  if (!reading) checkWritable(header)
  checkDataFile(header.incompatible, dataFile !== undefined)
  checkFormatOptions(spec, header.version)
  // What an image names is opened before it, where its file could be looked into.
  if (header.backingFile !== undefined && spec.backing === undefined)
    throw new CommandError(`The image names the backing file '${header.backingFile}': say what 'backing' is`)
  if (context.previous === undefined && spec.backing !== null) checkNamed(header, spec.named, name)
  const image = new Image(env, header)
  const tasks = tasksOption(spec)
  const map = new Qcow2Map(image, {
    backing,
    alone: spec.backing === null,
    bitmaps: context.bitmaps,
    caches: (length) => cacheSizes(spec, image, length),
    cleanInterval: cleanInterval(spec),
    keepPlaces: flag(spec, 'discard-no-unref', false),
    guardSnapshots: guardsSnapshots(spec),
    passDiscard: {
      request: flag(spec, 'pass-discard-request', options.discard === 'unmap'),
      snapshot: flag(spec, 'pass-discard-snapshot', true),
      other: flag(spec, 'pass-discard-other', false),
    },
  })
  await map.load(context.previous !== undefined)
  return new MappedDriver({
    type: 'qcow2',
    name,
    map,
    file,
    backing,
    buffers,
    tasks,
    readOnly,
  })
}

function checkDataFile(incompatible: ReadonlySet<number>, dataFile: boolean): void {
  if (incompatible.has(Incompatible.dataFile) && !dataFile)
    throw new CommandError("'data-file' is required for this image")
  if (!incompatible.has(Incompatible.dataFile) && dataFile)
    throw new CommandError("'data-file' can only be set for images with an external data file")
}

function flag(spec: NodeSpec, name: string, missing: boolean): boolean {
  return (spec[name] as boolean | undefined) ?? missing
}
