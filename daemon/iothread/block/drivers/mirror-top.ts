// SPDX-License-Identifier: Apache-2.0
// mirror_top: the filter above the source of a running mirror. It only passes requests on; it exists because managers
// look for it by name and find the job's dirty bitmap there. Put in place by Graph.insertFilter.

import { Filter } from './filter.js'

export class MirrorTop extends Filter {
  readonly type = 'mirror_top'
}
