// SPDX-License-Identifier: Apache-2.0
// Opening of file and host_device nodes: what is refused and how it is said. Texts are the reference daemon's, because
// managers match on them. Nothing stays open when it fails.

import { constants } from 'node:fs'
import type { FileFacts, FileId, IoEngine } from '../../../../native/types.js'
import { EACCES, EPERM, EROFS, errnoText } from '../../../common/errno.js'
import { CommandError } from '../../../errors.js'
import type { NodeFiles, NodeSpec } from '../../messages.js'
import type { NodeOptions } from '../options.js'
import { FileDriver } from './file.js'

interface Handle {
  readonly file: FileId
  readonly readOnly: boolean
}

const { O_RDONLY, O_RDWR } = constants
/** Errors of opening for writing after which `auto-read-only` tries reading only. */
const readOnlyErrors = new Set([-EACCES, -EPERM, -EROFS])

/**
 * @param opened  told of the handle as soon as there is one, so that stuck requests can be named
 * @throws CommandError  with the reference texts
 */
export async function openFile(
  spec: NodeSpec,
  options: NodeOptions,
  engine: IoEngine,
  opened: (file: FileId) => void,
): Promise<FileDriver> {
  const type = spec.driver === 'host_device' ? 'host_device' : 'file'
  const path = spec.filename as string
  if (path === '') throw new CommandError(`The '${type}' block driver requires a file name`)
  if (spec.aio === 'native' && !options.direct) {
    throw new CommandError(
      'aio=native was specified, but it requires cache.direct=on, which was not specified.',
    )
  }
  const handle = await openHandle(path, spec.files as NodeFiles | undefined, options, engine)
  opened(handle.file)
  try {
    const facts = await engine.stat(handle.file)
    if (typeof facts === 'number') throw new CommandError(`Could not stat file: ${errnoText(-facts)}`)
    checkFacts(type, path, options, facts)
    return new FileDriver(engine, handle.file, facts, {
      type,
      path,
      name: spec['node-name'],
      readOnly: handle.readOnly,
      noFlush: options.noFlush,
      locking: (spec.locking as 'auto' | 'on' | 'off' | undefined) ?? 'auto',
      forceShare: options.forceShare,
    })
  } catch (error) {
    await engine.close(handle.file)
    throw error
  }
}

async function openHandle(
  path: string,
  files: NodeFiles | undefined,
  options: NodeOptions,
  engine: IoEngine,
): Promise<Handle> {
  const { direct, autoReadOnly } = options
  let readOnly = options.readOnly || (autoReadOnly && files !== undefined && files.both === undefined)
  const open = (write: boolean) =>
    engine.open(files === undefined ? path : fileOf(files, write), { write, direct })
  let file = await open(!readOnly)
  if (readOnlyErrors.has(file) && !readOnly && autoReadOnly) {
    readOnly = true
    file = await open(false)
  }
  if (file < 0) throw new CommandError(`Could not open '${path}': ${errnoText(-file)}`)
  return { file, readOnly }
}

/**
 * What a set of descriptors has for this access, and no other.
 * @throws CommandError where it has nothing
 */
export function fileOf(files: NodeFiles, write: boolean, flags = write ? O_RDWR : O_RDONLY): string {
  const file = write ? files.both : files.read
  if (file !== undefined) return file
  throw new CommandError(`Failed to find file descriptor with matching flags=0x${flags.toString(16)}`)
}

function checkFacts(
  type: 'file' | 'host_device',
  path: string,
  options: NodeOptions,
  facts: FileFacts,
): void {
  if (type === 'file' && facts.kind !== 'file') {
    throw new CommandError(`'file' driver requires '${path}' to be a regular file`)
  }
  if (type === 'host_device' && facts.kind !== 'block' && facts.kind !== 'char') {
    throw new CommandError(`'host_device' driver requires '${path}' to be either a character or block device`)
  }
  if (options.direct && !facts.direct) {
    throw new CommandError(`Could not open '${path}': filesystem does not support O_DIRECT`)
  }
}
