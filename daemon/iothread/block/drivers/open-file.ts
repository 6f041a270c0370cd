// SPDX-License-Identifier: Apache-2.0
// Opening of file and host_device nodes: what is refused and how it is said. Texts are the reference daemon's, because
// managers match on them. Nothing stays open when it fails.

import type { FileFacts, FileId, IoEngine } from '../../../../native/types.js'
import { EACCES, EPERM, EROFS, errnoText } from '../../../common/errno.js'
import { CommandError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import type { NodeOptions } from '../options.js'
import { FileDriver } from './file.js'

interface Handle {
  readonly file: FileId
  readonly readOnly: boolean
}

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
  const handle = await openHandle(path, options, engine)
  opened(handle.file)
  try {
    const facts = await engine.stat(handle.file)
    if (typeof facts === 'number') throw new CommandError(`Could not stat file: ${errnoText(-facts)}`)
    checkFacts(type, path, options, facts)
    return new FileDriver(engine, handle.file, facts, {
      type,
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

async function openHandle(path: string, options: NodeOptions, engine: IoEngine): Promise<Handle> {
  const direct = options.direct
  let readOnly = options.readOnly
  let file = await engine.open(path, { write: !readOnly, direct })
  if (readOnlyErrors.has(file) && !readOnly && options.autoReadOnly) {
    readOnly = true
    file = await engine.open(path, { write: false, direct })
  }
  if (file < 0) throw new CommandError(`Could not open '${path}': ${errnoText(-file)}`)
  return { file, readOnly }
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
