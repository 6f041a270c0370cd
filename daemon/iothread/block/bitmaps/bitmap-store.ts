// SPDX-License-Identifier: Apache-2.0
// Where a format keeps persistent bitmaps: implemented by drivers of formats that can, called by the bitmap table under
// a claim that lets the image be changed. A driver loads bitmaps into its node's when the image is opened or has been
// changed by others, and stores them when the last who changes the image has left.

export interface BitmapStore {
  /** @throws CommandError when the image could not hold such a bitmap */
  checkNew(name: string, granularity: number): void
  /** From now on the bitmap in memory counts: durable in the image is that what it has is not to be trusted. */
  hold(name: string): Promise<void>
  holds(name: string): boolean
  /** Takes a bitmap out of the image, durably. Does nothing when it is not there. */
  remove(name: string): Promise<void>
}
