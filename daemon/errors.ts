// SPDX-License-Identifier: Apache-2.0
// The errors that cross module borders. A leaf: everybody may import it.
// Whoever catches one knows from its class who has to act: the disk (IoError), the user (CommandError) or nobody
// (Cancelled). Anything else is a bug.

import type { QmpErrorClass } from '../protocol/qmp.js'
import { errnoName, errnoText } from './common/errno.js'

/** What was asked of storage; the same verbs at every layer. */
export type IoOp =
  | 'open'
  | 'rename'
  | 'stat'
  | 'read'
  | 'write'
  | 'zero'
  | 'discard'
  | 'status'
  | 'flush'
  | 'resize'
  | 'lock'
  | 'copy'
  | 'close'

/** The disk said no. Job policy decides what follows. `message` is the C library's text of the errno. */
export class IoError extends Error {
  override readonly name = 'IoError'
  /** Symbolic errno: 'ENOSPC', 'EIO', … */
  readonly code: string

  /**
   * @param errno   positive errno
   * @param node    name of the node, '' when the file has none yet
   * @param offset  bytes into the node; 0 where the operation has no range
   * @param length  bytes; 0 where the operation has no range
   */
  constructor(
    readonly errno: number,
    readonly op: IoOp,
    readonly node: string,
    readonly offset = 0,
    readonly length = 0,
    options?: ErrorOptions,
  ) {
    super(errnoText(errno), options)
    this.code = errnoName(errno)
  }
}

/** The user's mistake: becomes an error reply. The text names the thing and what was expected. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  /** For people, where the text is one that managers know and it does not name the thing. */
  readonly hint: string | undefined

  constructor(
    message: string,
    readonly errorClass: QmpErrorClass = 'GenericError',
    options?: ErrorOptions & { readonly hint?: string },
  ) {
    super(message, options)
    this.hint = options?.hint
  }
}

/** Work was stopped on request. Not an error to log. `message` is the text of ECANCELED as managers know it. */
export class Cancelled extends Error {
  override readonly name = 'Cancelled'

  constructor(options?: ErrorOptions) {
    super('Operation canceled', options)
  }
}
