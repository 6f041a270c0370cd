// SPDX-License-Identifier: Apache-2.0
// Making or emptying an image file. Used by the graph for blockdev-create and drive-mirror.
// Order: locks first, then the change, so a file that somebody uses is left as it is; then the file and its directory
// are flushed. A file that was passed as a descriptor is there already, in a directory that is not known.
// A file that did not exist before is removed again when this fails.

import { constants } from 'node:fs'
import path from 'node:path'
import type { FileId, IoEngine } from '../../../native/types.js'
import { EEXIST, errnoText } from '../../common/errno.js'
import { CommandError } from '../../errors.js'
import type { FileCreateSpec } from '../messages.js'
import type { Permissions } from './driver.js'
import { fileOf } from './drivers/open-file.js'
import { ImageLock, lockRefused } from './image-lock.js'

const { O_CREAT, O_RDWR } = constants

const creating: Permissions = {
  use: ['write', 'resize'],
  share: ['consistent read', 'write', 'write unchanged'],
}

/**
 * @param refuse  identities (`device:inode`) of files that must not be touched
 * @throws CommandError  naming the file
 */
export async function createFile(
  engine: IoEngine,
  spec: FileCreateSpec,
  refuse: readonly string[],
): Promise<void> {
  const { filename: name, files } = spec
  const passed = files === undefined ? undefined : fileOf(files, true, O_RDWR | O_CREAT)
  let fresh = passed === undefined
  let file = await engine.open(passed ?? name, { write: true, create: fresh, exclusive: fresh })
  if (file === -EEXIST && fresh) {
    fresh = false
    file = await engine.open(name, { write: true, create: true })
  }
  if (file < 0) throw new CommandError(`Could not create '${name}': ${errnoText(-file)}`)
  let done = false
  try {
    await fill(engine, file, spec, refuse)
    done = true
  } finally {
    await engine.close(file)
    if (!done && fresh) await engine.unlink(name)
  }
  if (passed === undefined) await flushDirectory(engine, name)
}

async function fill(
  engine: IoEngine,
  file: FileId,
  spec: FileCreateSpec,
  refuse: readonly string[],
): Promise<void> {
  const facts = await engine.stat(file)
  if (typeof facts === 'number') throw new CommandError(`Could not stat file: ${errnoText(-facts)}`)
  if (facts.kind !== 'file') {
    throw new CommandError(`'file' driver requires '${spec.filename}' to be a regular file`)
  }
  // The text for a file in use: whoever reads or writes it does not share resizing.
  if (refuse.includes(`${facts.device}:${facts.inode}`)) {
    throw lockRefused('"resize"', spec.filename)
  }
  if (spec.preallocation === 'metadata') throw new CommandError('Unsupported preallocation mode: metadata')
  await new ImageLock(engine, file, spec.filename).apply(creating, false)
  // What cannot become so long keeps what it has.
  if (spec.size > facts.size) check(await engine.truncate(file, spec.size), 'Could not resize file')
  check(await (spec.noCow ? engine.emptyWithoutCow(file) : engine.truncate(file, 0)), 'Could not clear file')
  check(await engine.truncate(file, spec.size, spec.preallocation !== 'off'), 'Could not resize file')
  if (spec.preallocation === 'full') await writeZeroes(engine, file, spec.size)
  check(await engine.flush(file, false), 'Could not flush file to disk')
}

/** Every block really written, so that later writes change no metadata. */
async function writeZeroes(engine: IoEngine, file: FileId, size: number): Promise<void> {
  const slots = engine.takeSlots(1)
  const [slot] = slots
  if (slot === undefined) throw new CommandError('Could not write zeros for preallocation: no free buffer')
  try {
    engine.slotBytes(slot).fill(0)
    for (let offset = 0; offset < size; offset += engine.slotSize) {
      const length = Math.min(engine.slotSize, size - offset)
      check(await engine.write(file, offset, length, slot, 0), 'Could not write zeros for preallocation')
    }
  } finally {
    engine.giveSlots(slots)
  }
}

async function flushDirectory(engine: IoEngine, name: string): Promise<void> {
  const directory = path.dirname(name)
  const handle = await engine.open(directory, { write: false, directory: true })
  check(handle, `Could not flush directory '${directory}'`)
  try {
    check(await engine.flush(handle, false), `Could not flush directory '${directory}'`)
  } finally {
    await engine.close(handle)
  }
}

function check(result: number, text: string): void {
  if (result < 0) throw new CommandError(`${text}: ${errnoText(-result)}`)
}
