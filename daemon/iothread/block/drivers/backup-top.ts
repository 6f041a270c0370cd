// SPDX-License-Identifier: Apache-2.0
// The filter that stands above the source of a running backup. Managers look for it by name. It lets everything through:
// changes of the source wait at the source itself, where none can come past. Put in place by Graph.insertFilter.

import { Filter } from './filter.js'

export class BackupTop extends Filter {
  readonly type = 'copy-before-write'
}
