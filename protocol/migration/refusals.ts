// SPDX-License-Identifier: Apache-2.0
// Why a stream is not taken: one text for each thing that QEMU can put into a stream and that is not handled here. Each
// names the capability or parameter that has to be off, so that whoever reads it knows what to do.

export const refusals = {
  tls: 'the connection begins with TLS: parameter "tls-creds" has to be empty on the source',
  returnPath:
    'the source waits for answers on its connection: capability "return-path" ' +
    '(or "postcopy-ram", which implies it) has to be off',
  postcopy: 'the source switched to postcopy: capability "postcopy-ram" has to be off',
  recovery: 'the source resumes an interrupted postcopy migration: that cannot be continued here',
  colo: 'the source replicates its guest: capability "x-colo" has to be off',
  compress: 'the stream has compressed pages: capability "compress" has to be off',
  rdma: 'the stream has records of RDMA: only sockets, pipes and files can be read',
  blockMigration: 'the stream holds contents of disks: capability "block" has to be off',
  vfio: 'an assigned device sends its state while memory is sent: such streams can only be stored as they are',
  /** For who has no channels: a sync point stands in START of RAM, or pages never come. */
  multifd:
    'the pages come over connections of their own: capability "multifd" has to be off, or all of them be given',
  deviceChannels: 'a multifd channel carries states of assigned devices: that is not handled',
  spapr: 'the stream has the hash page table of a ppc guest: such streams can only be stored as they are',
  s390: 'the stream has storage attributes of an s390x guest: such streams can only be stored as they are',
  ignoreSharedMapped:
    'capabilities "x-ignore-shared" and "mapped-ram" are both listed: QEMU 10.0 writes no file with both that loads',
  unfinishedMapped:
    'the mapped-ram file has no END of RAM, so its bitmaps were never written: capability "background-snapshot" ' +
    'has to be off when QEMU writes such a file',
} as const
