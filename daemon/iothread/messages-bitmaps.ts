// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker about named dirty bitmaps. Part of messages.ts.

/** What becomes of a bitmap when the job that used it ends. */
export type BitmapMode = 'on-success' | 'never' | 'always'

/** As queries show it; one without a name is a job's. */
export interface DirtyBitmapReport {
  readonly name?: string
  readonly recording: boolean
  readonly persistent: boolean
  readonly busy: boolean
  readonly inconsistent?: boolean
  /** Bytes per bit. */
  readonly granularity: number
  /** Bytes that are dirty, in whole chunks. */
  readonly count: number
}

/** Of the node that is served or the first below it that has one; or of the node that is named. */
export type ExportBitmap = string | { readonly node: string; readonly name: string }

/** The content of a bitmap: eight bits in a byte, the lowest first. */
export interface BitmapContent {
  /** Bytes of the node it covers, and bytes per bit. */
  readonly length: number
  readonly granularity: number
  readonly bits: Uint8Array
}

/** A bitmap of a node in the same worker, or the content of one that is elsewhere. */
export type MergeSource = { readonly node: string; readonly name: string } | BitmapContent

interface OfBitmap {
  readonly node: string
  readonly name: string
}

/** One change of one bitmap. */
export type BitmapAction =
  | (OfBitmap & {
      readonly kind: 'add'
      /** Bytes per bit; undefined: as suits the image. */
      readonly granularity: number | undefined
      readonly persistent: boolean
      readonly recording: boolean
    })
  | (OfBitmap & { readonly kind: 'remove' | 'clear' | 'enable' | 'disable' })
  | (OfBitmap & { readonly kind: 'merge'; readonly sources: readonly MergeSource[] })

/** A bitmap that is in the memory of its worker only. */
export interface CarriedBitmap extends OfBitmap {
  readonly recording: boolean
  readonly content: BitmapContent
}

export interface BitmapRequests {
  /** Of some nodes that nobody uses, what goes with them to another worker. */
  'bitmaps-carried': { args: { nodes: readonly string[] }; reply: readonly CarriedBitmap[] }
  /** Adds them to nodes that were opened here just now. */
  'bitmaps-put': { args: { bitmaps: readonly CarriedBitmap[] }; reply: null }
  /** All of them, in order, or none. */
  'bitmaps-change': { args: { actions: readonly BitmapAction[] }; reply: null }
  'bitmap-content': { args: { node: string; name: string }; reply: BitmapContent }
  'bitmap-sha256': { args: { node: string; name: string }; reply: string }
}
