// SPDX-License-Identifier: Apache-2.0
// raw: the child as it is, or a window of it (offset, size). Opened by the table in open.ts.

import { EINVAL } from '../../../common/errno.js'
import { CommandError, IoError } from '../../../errors.js'
import type { NodeSpec } from '../../messages.js'
import type { Can, Extent, ReadHow, ResizeHow, Slice, StatusHow, WriteHow, ZeroHow } from '../driver.js'
import type { Borrower, Loan } from '../loans.js'
import { type BlockNode, SECTOR } from '../node.js'
import { sizeOption } from '../options.js'
import { Filter } from './filter.js'

class RawDriver extends Filter {
  readonly type = 'raw'
  readonly #offset: number
  /** Bytes of the window; undefined: to the end of the child. */
  readonly #size: number | undefined

  constructor(child: BlockNode, offset: number, size: number | undefined) {
    super(child)
    this.#offset = offset
    this.#size = size
  }

  override get can(): Can {
    const can = super.can
    return this.#size === undefined ? can : { ...can, resize: false }
  }
  override length(): number {
    return this.#size ?? Math.max(0, this.child.length() - this.#offset)
  }
  override read(offset: number, into: Slice, how?: ReadHow): Promise<boolean> {
    return this.child.read(this.#offset + offset, into, how)
  }
  override write(offset: number, from: Slice, how: WriteHow): Promise<void> {
    return this.child.write(this.#offset + offset, from, how)
  }
  override zero(offset: number, length: number, how: ZeroHow): Promise<void> {
    return this.child.zero(this.#offset + offset, length, how)
  }
  override discard(offset: number, length: number): Promise<void> {
    return this.child.discard(this.#offset + offset, length)
  }
  override async status(offset: number, length: number, how?: StatusHow): Promise<Extent> {
    const extent = await this.child.status(this.#offset + offset, length, how)
    if (this.#offset === 0) return extent
    return { ...extent, offset }
  }
  lend(borrower: Borrower): Loan | undefined {
    return this.#offset === 0 && this.#size === undefined ? this.child.lend(borrower) : undefined
  }
  override async resize(length: number, how?: ResizeHow): Promise<void> {
    if (this.#size !== undefined) throw new CommandError('Cannot resize fixed-size raw disks')
    if (!Number.isSafeInteger(this.#offset + length)) {
      throw new IoError(EINVAL, 'resize', this.child.name, 0, length)
    }
    await this.child.resize(this.#offset + length, how)
  }
}

/**
 * @throws CommandError when the window does not fit the child or is not in sectors
 */
export function openRaw(spec: NodeSpec, child: BlockNode): RawDriver {
  const offset = sizeOption(spec, 'offset', 0)
  const size = sizeOption(spec, 'size', undefined)
  const whole = Math.ceil(child.length() / SECTOR) * SECTOR
  if (offset > whole) {
    throw new CommandError(`Offset (${offset}) cannot be greater than size of the containing file (${whole})`)
  }
  if (size !== undefined && size % SECTOR !== 0)
    throw new CommandError('Specified size is not multiple of 512')
  if (size !== undefined && offset + size > whole) {
    throw new CommandError(
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the  ` +
        `actual size of the containing file (${whole})`,
    )
  }
  return new RawDriver(child, offset, size)
}
