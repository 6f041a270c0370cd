// SPDX-License-Identifier: Apache-2.0
// getfd, closefd, add-fd, remove-fd, query-fdsets: checks in QEMU's order with its texts. A command that was sent with a
// descriptor has used it up, also when it fails.

import { closeDescriptor } from '../../../native/descriptors.js'
import { CommandError } from '../../errors.js'
import type { CommandCall, Handlers } from '../commands.js'
import type { Descriptors } from '../descriptors.js'

export function descriptorHandlers(descriptors: Descriptors) {
  return {
    getfd: ({ fdname }, call) => {
      const fd = sent(call)
      if (/^[0-9]/.test(fdname)) {
        closeDescriptor(fd)
        throw new CommandError("Parameter 'fdname' expects a name not starting with a digit")
      }
      descriptors.keep(call.session, fdname, fd)
    },

    closefd: ({ fdname }, { session }) => descriptors.closeNamed(session, fdname),

    'add-fd': ({ 'fdset-id': id, opaque }, call) => {
      const fd = sent(call)
      if (id !== undefined && id < 0) {
        closeDescriptor(fd)
        throw new CommandError("Parameter 'fdset-id' expects a non-negative value")
      }
      return { fd, 'fdset-id': descriptors.add(fd, id, opaque) }
    },

    'remove-fd': ({ 'fdset-id': id, fd }) => descriptors.remove(id, fd),

    'query-fdsets': () =>
      descriptors.list().map(({ id, members }) => ({
        fds: members.map(({ fd, opaque }) => ({ fd, ...(opaque !== undefined && { opaque }) })),
        'fdset-id': id,
      })),
  } satisfies Handlers
}

function sent(call: CommandCall): number {
  const fd = call.takeDescriptor()
  if (fd === undefined) throw new CommandError('No file descriptor supplied via SCM_RIGHTS')
  return fd
}
