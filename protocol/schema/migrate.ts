// SPDX-License-Identifier: Apache-2.0
// The migration commands of QEMU, for the part the daemon plays in them: migrate-incoming names where the memory of a VM
// comes from, migrate where it goes. Order of capabilities as QEMU 10.0 lists them.

import { socketAddress } from './addresses.js'
import {
  alternate,
  arrayOf,
  bool,
  command,
  enumOf,
  event,
  type InferMembers,
  int,
  type Members,
  nothing,
  number,
  optional,
  required,
  size,
  str,
  struct,
  uint8,
  uint32,
  uint64,
  union,
} from './types.js'

export const migrationCapability = enumOf('MigrationCapability', [
  'xbzrle',
  'rdma-pin-all',
  'auto-converge',
  'zero-blocks',
  'events',
  'postcopy-ram',
  'x-colo',
  'release-ram',
  'return-path',
  'pause-before-switchover',
  'multifd',
  'dirty-bitmaps',
  'postcopy-blocktime',
  'late-block-activate',
  'x-ignore-shared',
  'validate-uuid',
  'background-snapshot',
  'zero-copy-send',
  'postcopy-preempt',
  'switchover-ack',
  'dirty-limit',
  'mapped-ram',
])
export type MigrationCapability = (typeof migrationCapability.values)[number]

const capabilityStatus = struct('MigrationCapabilityStatus', {
  capability: required(migrationCapability, 'Its name.'),
  state: required(bool, 'On or off.'),
})

/** Of a parameter that means nothing here: managers set the same ones on both sides. */
const OTHERS = 'Kept and shown; it matters to the QEMU at the other end.'
const TLS = 'Must stay empty: migration over TLS is not supported.'

/** Defaults are what holds until they are set. */
export const migrationParameters = {
  'announce-initial': optional(size, OTHERS, { default: 50 }),
  'announce-max': optional(size, OTHERS, { default: 550 }),
  'announce-rounds': optional(size, OTHERS, { default: 5 }),
  'announce-step': optional(size, OTHERS, { default: 100 }),
  'throttle-trigger-threshold': optional(uint8, OTHERS, { default: 50 }),
  'cpu-throttle-initial': optional(uint8, OTHERS, { default: 20 }),
  'cpu-throttle-increment': optional(uint8, OTHERS, { default: 10 }),
  'cpu-throttle-tailslow': optional(bool, OTHERS, { default: false }),
  'tls-creds': optional(str, TLS, { default: '' }),
  'tls-hostname': optional(str, TLS, { default: '' }),
  'tls-authz': optional(str, TLS, { default: '' }),
  'max-bandwidth': optional(size, 'Bytes per second, 0 = no limit. Acts at once.', { default: 0 }),
  'avail-switchover-bandwidth': optional(size, OTHERS, { default: 0 }),
  'downtime-limit': optional(uint64, OTHERS, { default: 300 }),
  'x-checkpoint-delay': optional(uint32, OTHERS, { default: 20000 }),
  'multifd-channels': optional(
    uint8,
    'With the capability multifd: connections beside the first, or writes of a file under way at once.',
    { default: 2 },
  ),
  'xbzrle-cache-size': optional(size, OTHERS, { default: 67108864 }),
  'max-postcopy-bandwidth': optional(size, OTHERS, { default: 0 }),
  'max-cpu-throttle': optional(uint8, OTHERS, { default: 99 }),
  'multifd-compression': optional(
    enumOf('MultiFDCompression', ['none', 'zlib', 'zstd']),
    `${OTHERS} What comes in says what it is; nothing is sent compressed.`,
    { default: 'none' },
  ),
  'multifd-zlib-level': optional(uint8, OTHERS, { default: 1 }),
  'multifd-qatzip-level': optional(uint8, OTHERS, { default: 1 }),
  'multifd-zstd-level': optional(uint8, OTHERS, { default: 1 }),
  'x-vcpu-dirty-limit-period': optional(uint64, OTHERS, { default: 1000 }),
  'vcpu-dirty-limit': optional(uint64, OTHERS, { default: 1 }),
  mode: optional(enumOf('MigMode', ['normal', 'cpr-reboot', 'cpr-transfer']), OTHERS, {
    default: 'normal',
  }),
  'zero-page-detection': optional(enumOf('ZeroPageDetection', ['none', 'legacy', 'multifd']), OTHERS, {
    default: 'multifd',
  }),
  'direct-io': optional(bool, 'Files are read and written past the page cache where that is possible.', {
    default: false,
  }),
  'x-flush': optional(
    enumOf('x-MigrationFlush', ['full', 'data', 'none']),
    'full: file and folder are durable before completed; data: the file; none: nothing waits for the disk.',
    { default: 'full' },
  ),
} satisfies Members

const textOrNothing = alternate<string | null>('StrOrNull', () => [str, nothing])
const changedParameters = {
  ...migrationParameters,
  'tls-creds': optional(textOrNothing, TLS, { default: '' }),
  'tls-hostname': optional(textOrNothing, TLS, { default: '' }),
  'tls-authz': optional(textOrNothing, TLS, { default: '' }),
} satisfies Members
export type MigrationParameters = InferMembers<typeof migrationParameters>
export type ChangedParameters = InferMembers<typeof changedParameters>

const address = union(
  'MigrationAddress',
  {
    transport: required(
      enumOf('MigrationAddressType', ['socket', 'exec', 'rdma', 'file']),
      'How it is carried; exec and rdma are not supported.',
    ),
  },
  'transport',
  {
    socket: socketAddress,
    exec: { args: required(arrayOf(str), 'Not supported.') },
    rdma: { host: required(str, 'Not supported.'), port: required(str, 'Not supported.') },
    file: {
      filename: required(str, 'A path, or `/dev/fdset/N`.'),
      offset: required(size, 'Where the image begins, bytes.'),
    },
  },
)

const channel = struct('MigrationChannel', {
  'channel-type': required(enumOf('MigrationChannelType', ['main', 'cpr']), 'main; cpr is not supported.'),
  addr: required(address, 'Where it leads.'),
})

const places = {
  uri: optional(
    str,
    '`file:PATH[,offset=N]`, `unix:PATH`, `tcp:HOST:PORT` or `fd:NAME` (see getfd). This or channels.',
  ),
  channels: optional(arrayOf(channel), 'The same in parts: one channel of type main.'),
} satisfies Members

export const migrationStatus = enumOf('MigrationStatus', [
  'none',
  'setup',
  'cancelling',
  'cancelled',
  'active',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover',
  'completed',
  'failed',
  'colo',
  'pre-switchover',
  'device',
  'wait-unplug',
])
export type MigrationStatus = (typeof migrationStatus.values)[number]

const ramStats = struct('MigrationRAMStats', {
  transferred: required(int, 'Bytes that came, repeated ones and everything around the pages included.'),
  remaining: required(int, 'Bytes of memory that have not come yet, as far as known.'),
  total: required(int, 'Bytes of memory.'),
  duplicate: required(int, 'Zero pages.'),
  normal: required(int, 'Pages with data, repeated ones included.'),
  'normal-bytes': required(int, 'The same in bytes.'),
  'dirty-pages-rate': required(int, 'Always 0: only the source knows.'),
  mbps: required(number, 'Megabits per second, from the first byte to the end of the flush.'),
  'dirty-sync-count': required(int, 'Times the source went over its memory.'),
  'postcopy-requests': required(int, 'Always 0.'),
  'page-size': required(int, 'Bytes of a page.'),
  'multifd-bytes': required(int, 'Always 0: see transferred.'),
  'pages-per-second': required(int, 'Pages of both kinds over the time mbps speaks of.'),
  'precopy-bytes': required(int, 'Always 0: only the source knows.'),
  'downtime-bytes': required(int, 'Always 0: only the source knows.'),
  'postcopy-bytes': required(int, 'Always 0.'),
  'dirty-sync-missed-zero-copy': required(int, 'Always 0.'),
})

const timeClass = struct('x-TimeClass', {
  'up-to-ms': optional(int, 'Upper bound of the class, milliseconds; absent: longer than all others.'),
  count: required(int, 'How many times were longer than the class before and up to this.'),
})

const phases = struct('x-MigrationPhases', {
  'pages-ms': required(int, 'From the head to the last page, milliseconds.'),
  'tail-ms': required(int, 'States of devices, milliseconds.'),
  'flush-ms': required(int, 'Bitmaps, flush, rename and flush of the folder, milliseconds.'),
  'flush-age-ms': optional(int, 'Of a flush that runs: since when, milliseconds.'),
  'longest-stall-ms': required(number, 'The longest time the source had to wait until more was read.'),
  waits: required(arrayOf(timeClass), 'All such times in classes.'),
  'longest-iteration-ms': required(number, 'The longest of the following.'),
  iterations: required(
    arrayOf(timeClass),
    'How long the source took from one part of its memory to the next, in classes: stalls included, whoever made them.',
  ),
})

const migrationInfo = struct('MigrationInfo', {
  status: optional(migrationStatus, 'Absent when there was no migration.'),
  ram: optional(ramStats, 'Memory.'),
  'total-time': optional(int, 'Since it was asked for, flush included, milliseconds.'),
  'expected-downtime': optional(int, 'Always 0: only the source knows.'),
  downtime: optional(
    int,
    'From the last page to completed, milliseconds: the guest stood still at least that long.',
  ),
  'setup-time': optional(int, 'Until the head had come, milliseconds.'),
  'error-desc': optional(str, 'Why it failed.'),
  'socket-address': optional(arrayOf(socketAddress), 'Where a QEMU is waited for, with the port it became.'),
  'x-phases': optional(phases, 'Where the time goes.'),
})

export const migrateCommands = {
  'migrate-incoming': command({
    doc: 'Opens the source of a migration: listens at a socket, or checks a file. Nothing is read from a connection until migrate says where it goes: its QEMU waits.',
    arguments: struct('migrate-incoming-arg', {
      ...places,
      'exit-on-error': optional(bool, 'Taken and ignored: errors do not end the daemon.', { default: false }),
    }),
  }),
  migrate: command({
    doc: 'Moves the memory that migrate-incoming opened: to a file (mapped-ram when that capability is on, else a stream), or to a QEMU that was started with -incoming. Answers at once; the events MIGRATION (capability events) and query-migrate tell the rest.',
    arguments: struct('migrate-arg', {
      ...places,
      detach: optional(bool, 'Taken and ignored.', { default: true }),
      resume: optional(bool, 'Not supported.', { default: false }),
    }),
  }),
  migrate_cancel: command({
    doc: 'Cancels the migration, and closes its source if it did not begin yet. Nothing is left of the target. Never fails.',
  }),
  'query-migrate': command({
    doc: 'How far the migration is.',
    arguments: struct('query-migrate-arg', {
      'x-job-id': optional(str, 'The same of a job x-memory-save, x-memory-restore or x-memory-convert.'),
    }),
    returns: migrationInfo,
  }),
  'migrate-set-capabilities': command({
    doc: 'Turns capabilities on and off: mapped-ram and multifd choose how memory is carried, events makes MIGRATION events. Others are kept for clients that set the same at both ends.',
    arguments: struct('migrate-set-capabilities-arg', {
      capabilities: required(arrayOf(capabilityStatus), 'Those to change.'),
    }),
  }),
  'query-migrate-capabilities': command({ doc: 'All capabilities.', returns: arrayOf(capabilityStatus) }),
  'migrate-set-parameters': command({
    doc: 'Sets parameters, also while a migration runs.',
    arguments: struct('MigrateSetParameters', changedParameters),
  }),
  'query-migrate-parameters': command({
    doc: 'All parameters.',
    returns: struct('MigrationParameters', migrationParameters),
  }),
}

export const migrateEvents = {
  MIGRATION: event({
    doc: 'The migration entered another state (capability events).',
    data: struct('MIGRATION-arg', { status: required(migrationStatus, 'The new state.') }),
  }),
  MIGRATION_PASS: event({
    doc: 'The source began to go over its memory once more (capability events).',
    data: struct('MIGRATION_PASS-arg', { pass: required(int, 'Counted from 1.') }),
  }),
}
