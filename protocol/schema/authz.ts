// SPDX-License-Identifier: Apache-2.0
// Who may come: rules about names, as members of objects and as the contents of files.

import { arrayOf, bool, enumOf, type Members, optional, required, str, struct } from './types.js'

const policy = enumOf('QAuthZListPolicy', ['deny', 'allow'])

const rule = struct('QAuthZListRule', {
  match: required(str, 'The name, or a pattern with `*` and `?`.'),
  policy: required(policy, 'What is done with who has it.'),
  format: optional(enumOf('QAuthZListFormat', ['exact', 'glob']), 'Whether it is a pattern.', {
    default: 'exact',
  }),
})

const listMembers = {
  policy: optional(policy, 'What is done with those that no rule is about.', { default: 'deny' }),
  rules: optional(arrayOf(rule), 'The first that fits decides.'),
} satisfies Members

/** What a file of rules holds. */
export const authzList = struct('AuthZListProperties', listMembers)

export const authzTypes = {
  'authz-list': listMembers,
  'authz-list-file': {
    filename: required(str, 'A file with `policy` and `rules` in JSON, as authz-list has them.'),
    refresh: optional(bool, 'It is read again for every client.', { default: true }),
  },
  'authz-simple': { identity: required(str, 'The only name that is let in.') },
} satisfies Record<string, Members>
