// SPDX-License-Identifier: Apache-2.0
// compress: a filter that has everything written through it stored compressed, where the format below can.

import type { Limits, Slice, WriteHow } from '../driver.js'
import { Filter } from './filter.js'

export class CompressDriver extends Filter {
  readonly type = 'compress'

  override get limits(): Limits {
    const { limits } = this.child.driver
    return { ...limits, writeWhole: limits.writeAlign ?? 1 }
  }

  override write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return super.write(offset, from, { ...how, compressed: true })
  }
}
