// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { errnoNumber } from '../../../daemon/common/errno.js'
import { errnoOf, type NbdErrorName, nbdErrorOf, nbdErrors } from '../../../protocol/nbd/error-number.js'

const said: readonly [errno: string, error: NbdErrorName][] = [
  ['EPERM', 'EPERM'],
  ['EACCES', 'EPERM'],
  ['EROFS', 'EPERM'],
  ['EIO', 'EIO'],
  ['ENOMEM', 'ENOMEM'],
  ['EINVAL', 'EINVAL'],
  ['ENOSPC', 'ENOSPC'],
  ['EFBIG', 'ENOSPC'],
  ['EDQUOT', 'ENOSPC'],
  ['EOVERFLOW', 'EOVERFLOW'],
  ['EOPNOTSUPP', 'ENOTSUP'],
  ['ESHUTDOWN', 'ESHUTDOWN'],
  ['ENOENT', 'EIO'],
  ['ETIMEDOUT', 'EIO'],
  ['EUCLEAN', 'EIO'],
]

t.test('every errno has an NBD error', async (t) => {
  for (const [errno, error] of said) t.equal(nbdErrorOf(errnoNumber(errno) ?? 0), error, errno)
  for (let errno = 1; errno < 200; errno++) t.ok(nbdErrors[nbdErrorOf(errno)] > 0)
})

t.test('errors that are sent are errnos; ones that are not known are EINVAL', async (t) => {
  for (const error of Object.values(nbdErrors)) t.equal(errnoOf(error), error)
  for (const error of [2, 11, 200, 0xffffffff]) t.equal(errnoOf(error), 22)
})
