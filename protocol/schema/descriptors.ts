// SPDX-License-Identifier: Apache-2.0
// Descriptors that clients send over a Unix socket along with a command (SCM_RIGHTS).

import { arrayOf, command, int, optional, required, str, struct } from './types.js'

const fdname = required(str, 'The name: of this connection, and gone with it.')

const fdsetFdInfo = struct('FdsetFdInfo', {
  fd: required(int, 'Number of the descriptor in the daemon.'),
  opaque: optional(str, 'What add-fd was told.'),
})

const fdsetInfo = struct('FdsetInfo', {
  'fdset-id': required(int, 'Number of the set.'),
  fds: required(arrayOf(fdsetFdInfo), 'Its descriptors; none when all were removed while it is in use.'),
})

const addfdInfo = struct('AddfdInfo', {
  'fdset-id': required(int, 'Number of the set.'),
  fd: required(int, 'Number of the descriptor in the daemon.'),
})

export const descriptorCommands = {
  getfd: command({
    doc: 'Keeps the descriptor that was sent with the command under a name; one that had the name is closed.',
    arguments: struct('getfd-arg', { fdname }),
  }),
  closefd: command({ doc: 'Closes a named descriptor.', arguments: struct('closefd-arg', { fdname }) }),
  'add-fd': command({
    doc: 'Puts the descriptor that was sent with the command into a set. Nodes open sets as `/dev/fdset/N`.',
    arguments: struct('add-fd-arg', {
      'fdset-id': optional(int, 'Number of the set; absent: a new set.'),
      opaque: optional(str, 'Free text, shown by query-fdsets.'),
    }),
    returns: addfdInfo,
  }),
  'remove-fd': command({
    doc: 'Closes descriptors of a set. What was opened through it stays open.',
    arguments: struct('remove-fd-arg', {
      'fdset-id': required(int, 'Number of the set.'),
      fd: optional(int, 'Number of one descriptor; absent: all of them.'),
    }),
  }),
  'query-fdsets': command({ doc: 'Sets of descriptors.', returns: arrayOf(fdsetInfo) }),
}
