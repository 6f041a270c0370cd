// SPDX-License-Identifier: Apache-2.0
// Objects that others refer to by id: throttle groups, credentials, rules, iothreads, budgets; and the object tree's three
// commands.

import { authzTypes } from './authz.js'
import {
  any,
  arrayOf,
  bool,
  command,
  enumOf,
  int,
  type Members,
  optional,
  required,
  str,
  struct,
  union,
} from './types.js'

const throttleUnits = ['iops', 'bps'] as const
const throttleKinds = ['total', 'read', 'write'] as const

type ThrottleName =
  | `${(typeof throttleUnits)[number]}-${(typeof throttleKinds)[number]}${'' | '-max' | '-max-length'}`
  | 'iops-size'
type OptionalInt = ReturnType<typeof optional<typeof int>>

function throttleMembers<P extends '' | 'x-'>(prefix: P): Record<`${P}${ThrottleName}`, OptionalInt> {
  const members = {} as Record<string, OptionalInt>
  const add = (name: ThrottleName, doc: string, byDefault: number) => {
    members[prefix + name] = optional(int, doc, { default: byDefault })
  }
  for (const unit of throttleUnits) {
    const what = unit === 'iops' ? 'operations' : 'bytes'
    for (const kind of throttleKinds) {
      const name = `${unit}-${kind}` as const
      const of = kind === 'total' ? what : `${what} of ${kind}s`
      add(name, `Most ${of} per second, 0 = no limit.`, 0)
      add(`${name}-max`, `Most ${of} per second in a burst, 0 = no bursts.`, 0)
      add(`${name}-max-length`, 'Seconds that a burst lasts at that rate.', 1)
    }
  }
  add('iops-size', 'Bytes that count as one operation; 0 = each request is one.', 0)
  return members as Record<`${P}${ThrottleName}`, OptionalInt>
}

/** Limits of a throttle group; total excludes read and write. */
export const throttleLimits = struct('ThrottleLimits', throttleMembers(''))

const endpoint = optional(
  enumOf('QCryptoTLSCredsEndpoint', ['client', 'server']),
  'Which end they are for.',
  {
    default: 'client',
  },
)
const dir = required(str, 'Folder of their files.')

const objectTypes = {
  ...authzTypes,
  iothread: {
    'aio-max-batch': optional(int, 'Accepted and shown again.', { default: 0 }),
    'thread-pool-min': optional(int, 'Accepted and shown again.', { default: 0 }),
    'thread-pool-max': optional(int, 'Accepted and shown again.', { default: 64 }),
    'poll-max-ns': optional(int, 'Accepted and shown again.', { default: 32768 }),
    'poll-grow': optional(int, 'Accepted and shown again.', { default: 0 }),
    'poll-shrink': optional(int, 'Accepted and shown again.', { default: 0 }),
  },
  'throttle-group': {
    limits: optional(throttleLimits, 'Limits shared by all nodes of the group.'),
    ...throttleMembers('x-'),
  },
  'tls-creds-x509': {
    dir: {
      ...dir,
      doc: `${dir.doc} ca-cert.pem, server-cert.pem, server-key.pem (of a client client-…, which it need not have), ca-crl.pem where certificates are taken back.`,
    },
    endpoint,
    'verify-peer': optional(bool, 'The other end needs a certificate that the CA signed.', { default: true }),
  },
  'tls-creds-psk': {
    dir: { ...dir, doc: `${dir.doc} keys.psk, lines of USER:KEY with the key in hexadecimal digits.` },
    endpoint,
    username: optional(str, 'Of a client: which of the keys. Default: qemu.'),
    'x-file': optional(str, 'Name of the file with the keys, in that folder.', {
      default: 'keys.psk',
      extension: true,
    }),
  },
  'x-budget': {
    bandwidth: required(int, 'Bytes per second that the jobs which name it share, 0 = no limit.'),
  },
} satisfies Record<string, Members>

export const objectOptions = union(
  'ObjectOptions',
  {
    'qom-type': required(
      enumOf('ObjectType', [
        'authz-list',
        'authz-list-file',
        'authz-simple',
        'iothread',
        'throttle-group',
        'tls-creds-psk',
        'tls-creds-x509',
        'x-budget',
      ]),
      'Kind of object.',
    ),
    id: required(str, 'Name of the new object.'),
  },
  'qom-type',
  objectTypes,
)

const propertyInfo = struct('ObjectPropertyInfo', {
  name: required(str, 'Name of the property.'),
  type: required(str, 'Its type: a word, or `child<TYPE>`.'),
  description: optional(str, 'For people.'),
  'default-value': optional(any, 'Value when nothing was set.'),
})

const path = required(str, 'Path in the object tree: `/objects/ID`.')

export const objectCommands = {
  'object-add': command({ doc: 'Makes an object.', arguments: objectOptions }),
  'object-del': command({
    doc: 'Removes an object that nothing uses.',
    arguments: struct('object-del-arg', { id: required(str, 'Its name.') }),
  }),
  'qom-list': command({
    doc: 'Properties of an object.',
    arguments: struct('qom-list-arg', { path }),
    returns: arrayOf(propertyInfo),
  }),
  'qom-get': command({
    doc: 'Value of a property.',
    arguments: struct('qom-get-arg', { path, property: required(str, 'Name of the property.') }),
    returns: any,
  }),
  'qom-set': command({
    doc: 'Changes a property.',
    arguments: struct('qom-set-arg', {
      path,
      property: required(str, 'Name of the property.'),
      value: required(any, 'New value, of the type that qom-list names.'),
    }),
  }),
}
