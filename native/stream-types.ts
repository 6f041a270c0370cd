// SPDX-License-Identifier: Apache-2.0
// What the engine promises about streams: sockets, pipes, files read from front to end. Implemented by native/engine.ts.
// The rules of types.ts hold here too.

import type { FileId } from './types.js'

export interface StreamVerbs {
  /**
   * A copy of an open descriptor of this process, in the engine's own table: socket, pipe, terminal, device or file. It is
   * copied before the call returns: the descriptor may be closed then. Its flags stay as they are.
   */
  adopt(fd: number): Promise<FileId>
}
