// SPDX-License-Identifier: Apache-2.0
// Who may come: rules about names, in the order they are tried. Pure.

export interface AuthzList {
  /** What is done with those that no rule is about. */
  readonly policy: Policy
  readonly rules: readonly Rule[]
}

type Policy = 'allow' | 'deny'

interface Rule {
  readonly match: string
  readonly policy: Policy
  readonly format: 'exact' | 'glob'
}

/** As the schema lets it pass. */
interface Given {
  readonly policy?: Policy | undefined
  readonly rules?:
    | readonly {
        readonly match: string
        readonly policy: Policy
        readonly format?: 'exact' | 'glob' | undefined
      }[]
    | undefined
}

/** With what goes without saying. */
export function authzListFrom({ policy, rules }: Given): AuthzList {
  return {
    policy: policy ?? 'deny',
    rules: (rules ?? []).map((rule) => ({ ...rule, format: rule.format ?? 'exact' })),
  }
}

/** The first rule that fits decides. */
export function isAllowed({ policy, rules }: AuthzList, name: string): boolean {
  const rule = rules.find(({ match, format }) => (format === 'glob' ? fits(match, name) : match === name))
  return (rule?.policy ?? policy) === 'allow'
}

/**
 * `*` fits any text, `?` any one character, everything else itself. The last star takes more when what follows does not
 * fit, earlier ones never have to: time grows with the product of the lengths at most.
 */
function fits(pattern: string, text: string): boolean {
  const [wanted, given] = [[...pattern], [...text]]
  let [at, star, taken] = [0, -1, 0]
  for (let next = 0; next < given.length; ) {
    if (wanted[at] === '*') {
      star = at++
      taken = next
    } else if (wanted[at] === '?' || wanted[at] === given[next]) {
      at++
      next++
    } else if (star >= 0) {
      at = star + 1
      next = ++taken
    } else return false
  }
  while (wanted[at] === '*') at++
  return at === wanted.length
}
