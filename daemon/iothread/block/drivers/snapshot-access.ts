// SPDX-License-Identifier: Apache-2.0
// snapshot-access: shows the snapshot that the copy-before-write node below keeps. It is read; a discard says that nobody
// reads the range any more, so that it need not be kept.

import { EACCES, ENOTSUP } from '../../../common/errno.js'
import { CommandError, IoError } from '../../../errors.js'
import {
  type BlockDriver,
  type Can,
  type Extent,
  type Limits,
  PERMISSIONS,
  type Permissions,
  type ReadHow,
  type Slice,
  type StatusHow,
} from '../driver.js'
import type { BlockNode } from '../node.js'
import type { Snapshot } from '../snapshot.js'

export class SnapshotAccess implements BlockDriver {
  readonly type = 'snapshot-access'
  readonly can: Can = { write: false, resize: false, fastZero: false, unmap: true }
  readonly #child: BlockNode

  /** @throws CommandError when the node below keeps no snapshot */
  constructor(child: BlockNode) {
    if (child.driver.snapshot === undefined)
      throw new CommandError(`Node '${child.name}' keeps no snapshot: a 'copy-before-write' node is expected`)
    this.#child = child
  }

  get limits(): Limits {
    const { maxTransfer, zeroAlign } = this.#child.driver.limits
    return { requestAlign: 1, maxTransfer, zeroAlign }
  }

  /** Asked anew each time: a reopen replaces the driver below. */
  #snapshot(): Snapshot {
    const { snapshot } = this.#child.driver
    if (snapshot === undefined) throw new IoError(EACCES, 'read', this.#child.name)
    return snapshot
  }

  length(): number {
    return this.#snapshot().todo.length
  }

  read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    return this.#during((snapshot) => snapshot.read(offset, into, how))
  }

  status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    return this.#during((snapshot) => snapshot.status(offset, length, how))
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#during((snapshot) => snapshot.forget(offset, length))
  }

  /** As a request of the node below: it is over before another node takes the place of what the snapshot is of. */
  #during<T>(work: (snapshot: Snapshot) => Promise<T>): Promise<T> {
    return this.#child.withDriver(() => work(this.#snapshot()))
  }

  async write(offset: number, from: Slice): Promise<void> {
    throw new IoError(ENOTSUP, 'write', this.#child.name, offset, from.length)
  }

  async zero(offset: number, length: number): Promise<void> {
    throw new IoError(ENOTSUP, 'zero', this.#child.name, offset, length)
  }

  /** What changes is elsewhere. */
  async flush(): Promise<void> {}

  childPermissions(): Permissions {
    return { use: ['consistent read'], share: PERMISSIONS }
  }

  async close(): Promise<void> {}
}
