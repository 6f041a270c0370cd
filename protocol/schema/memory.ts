// SPDX-License-Identifier: Apache-2.0
// VM memory: saved from a QEMU that migrates to us, given back to one that comes in, converted between formats.

import {
  arrayOf,
  bool,
  command,
  enumOf,
  type Members,
  optional,
  required,
  size,
  str,
  struct,
  uint8,
  uint32,
} from './types.js'

const PLACES =
  '`unix:PATH` or `tcp:HOST:PORT` (listens; with `connect` true connects), `fd:NAME` (see getfd), or `file:PATH` of a FIFO'

const flushMode = enumOf('x-MemoryFlush', ['full', 'data', 'none'])
const fileFormat = enumOf('x-MemoryFormat', ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'])

const target = {
  target: required(
    str,
    'File to write: a path, `fd:NAME` (see getfd) or `/dev/fdset/N`. A path gets its file when everything is durable.',
  ),
  offset: optional(size, 'Where the image begins in the file, bytes; what is before it stays.', {
    default: 0,
  }),
  'direct-io': optional(bool, 'Write past the page cache where the file system allows it.', {
    default: true,
  }),
  channels: optional(uint8, 'Writes of 1 MiB under way at once, 1 to 32.', { default: 16 }),
  flush: optional(
    flushMode,
    'full: file and folder are durable when the job completes; data: the file; none: nothing waits for the disk.',
    { default: 'full' },
  ),
  xml: optional(
    str,
    'libvirt images: the XML of the domain. Default: that of the libvirt image that is converted.',
  ),
  'was-running': optional(bool, 'libvirt images: the guest is to run after the restore.', { default: true }),
  digests: optional(
    bool,
    'Write checksums of all pages to `TARGET.digests`, for `blockferry memory verify`.',
    {
      default: false,
    },
  ),
} satisfies Members

const limits = {
  'max-bandwidth': optional(size, 'Bytes per second, 0 = no limit.', { default: 0 }),
} satisfies Members

const jobId = { 'job-id': required(str, 'Job id.') } satisfies Members
const rename = struct('x-MemoryRename', {
  from: required(str, 'Name of a block of RAM.'),
  to: required(str, 'Its name in the target.'),
})
const sharedRam = struct('x-SharedRam', {
  block: required(str, 'Name of a block of RAM in the stream.'),
  file: required(str, 'The file that has its memory.'),
})
const changes = {
  ram: optional(
    arrayOf(sharedRam),
    'Memory that the stream leaves out because it lies in files (x-ignore-shared).',
  ),
  rename: optional(arrayOf(rename), 'Blocks that have another name where they are restored.'),
} satisfies Members

export const memoryCommands = {
  'x-memory-save': command({
    doc: 'Receives the memory of a VM that a QEMU migrates to us and writes it to a file, as a job of type x-memory-save. The job needs job-dismiss. job-cancel leaves no file.',
    arguments: struct('x-memory-save-arg', {
      ...jobId,
      source: required(str, `Where it comes from: ${PLACES}.`),
      connect: optional(bool, 'Connect to the source instead of listening.', { default: false }),
      'multifd-channels': optional(uint8, 'Connections beside the first, as the source was told; 0: none.', {
        default: 0,
      }),
      format: required(
        enumOf('x-MemorySaveFormat', ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse', 'null']),
        'How it is stored; null: read and thrown away.',
      ),
      ...target,
      target: optional(str, target.target.doc),
      ...limits,
      ...changes,
    }),
  }),
  'x-memory-restore': command({
    doc: 'Sends the memory in a file to a QEMU that was started with -incoming, as a job of type x-memory-restore. The file is checked before the first byte is sent; a stream is read twice for that. The job needs job-dismiss.',
    arguments: struct('x-memory-restore-arg', {
      ...jobId,
      source: required(str, 'File to read: a path, `fd:NAME` or `/dev/fdset/N`. Its format is found out.'),
      offset: optional(size, 'Where the image begins in the file, bytes.', { default: 0 }),
      'direct-io': optional(
        bool,
        'Read past the page cache where the file system allows it. Absent: unless most of the file is in it.',
      ),
      target: required(
        str,
        'Where it goes: `unix:PATH` or `tcp:HOST:PORT` (connects; with `listen` true listens), or `fd:NAME`.',
      ),
      listen: optional(bool, 'Wait for a connection instead of connecting.', { default: false }),
      'multifd-channels': optional(
        uint8,
        'Connections beside the first; the capability multifd is on there, with as many channels.',
        { default: 0 },
      ),
      'zero-pages': optional(bool, 'Send zero pages too: for memory that is not fresh.', { default: false }),
      ...limits,
      rename: changes.rename,
    }),
  }),
  'x-memory-convert': command({
    doc: 'Writes the memory in one file to another in another format, as a job of type x-memory-convert. The job needs job-dismiss.',
    arguments: struct('x-memory-convert-arg', {
      ...jobId,
      source: required(str, 'File to read, as for x-memory-restore.'),
      'source-offset': optional(size, 'Where the image begins in it, bytes.', { default: 0 }),
      format: required(fileFormat, 'How it is stored.'),
      ...target,
      ...limits,
      ...changes,
    }),
  }),
  'x-memory-inspect': command({
    doc: 'Looks at the memory in a file, as a job of type x-memory-inspect; nothing is written. What was found is x-result in query-jobs, see docs/memory.md. A file that cannot be loaded is a finding of info and verify, and an error of diff and map. The job needs job-dismiss.',
    arguments: struct('x-memory-inspect-arg', {
      ...jobId,
      what: required(
        enumOf('x-MemoryInspectWhat', ['info', 'verify', 'diff', 'map']),
        'info: what it is and what is in it; verify: whether it is sound, and what it was when it was written; diff: which pages differ from those of `other`; map: which pages are not zero, and which changed against `other`.',
      ),
      file: required(str, 'File to read, as for x-memory-restore.'),
      offset: optional(size, 'Where the image begins in it, bytes.', { default: 0 }),
      other: optional(str, 'diff and map: the other file.'),
      'other-offset': optional(size, 'Where the image begins in that, bytes.', { default: 0 }),
      'direct-io': optional(bool, 'Read past the page cache where the file system allows it.', {
        default: true,
      }),
      digests: optional(str, 'verify: path of the checksums. Default: `FILE.digests`, if there is one.'),
      cells: optional(
        uint32,
        'map: pieces that memory is told in at most, 1 to 262144; each is made of as many pages as that takes.',
        { default: 65536 },
      ),
    }),
  }),
}
