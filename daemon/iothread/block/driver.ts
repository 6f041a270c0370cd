// SPDX-License-Identifier: Apache-2.0
// What an implementer of a leaf (file, null) or a filter (throttle, inject) writes. Called only by BlockNode, which
// has checked range, alignment and permission before; drivers check none of it again.

import type { FileFacts, Range } from '../../../native/types.js'
import type { FormatFacts } from '../messages.js'
import type { BitmapStore } from './bitmaps/bitmap-store.js'
import type { Borrower, Loan } from './loans.js'
import type { BlockNode } from './node.js'
import type { Preallocate } from './preallocate.js'
import type { Snapshot } from './snapshot.js'

/** Bytes inside one slot of the engine's buffer pool, or one run. The caller owns the slot until the promise settles. */
export interface Slice {
  readonly slot: number
  /** Bytes from the start of the slot. */
  readonly offset: number
  readonly length: number
}

export type DriverName =
  | 'file'
  | 'host_device'
  | 'raw'
  | 'qcow2'
  | 'compress'
  | 'copy-before-write'
  | 'snapshot-access'
  | 'nbd'
  | 'null-co'
  | 'null-aio'
  | 'throttle'
  | 'x-memory'
  | 'x-inject'
  | 'blkdebug'
  | 'mirror_top'
  | 'commit_top'
  | 'copy-on-read'

export interface Limits {
  /** Offset and length of reads and writes are best multiples of this, bytes; others cost a read-modify-write below. */
  readonly requestAlign: number
  /** Longest read or write, bytes. */
  readonly maxTransfer: number
  /** Zero and discard in multiples of this have their full effect, bytes. */
  readonly zeroAlign: number
  /** Writes of whole multiples of this need nothing else read or written, bytes: the cluster of a format. Default: any. */
  readonly writeAlign?: number
  /** Writes of whole multiples of this are stored as the node is there to store them, bytes: in compressed clusters. Default: any. */
  readonly writeWhole?: number
}

export interface Can {
  readonly write: boolean
  readonly resize: boolean
  /** zero() does not write data (may still turn out to: `fast` asks for certainty). */
  readonly fastZero: boolean
  /** zero({unmap}) gives storage back. */
  readonly unmap: boolean
}

export interface ReadHow {
  /** Look whether all bytes read are zero. */
  readonly scan?: boolean
}

export interface StatusHow {
  /** Neighbours that lie apart in storage are told apart. */
  readonly places?: boolean
}

export interface WriteHow {
  /** Durable on completion. */
  readonly fua?: boolean
  /** Stored compressed where the driver can and the range is one of whole clusters. */
  readonly compressed?: boolean
  /** Only where nothing is stored in this layer yet: what the node shows stays the same. Formats with backing files only. */
  readonly below?: boolean
}

export interface ResizeHow {
  /** A file that becomes empty is one whose data is not copied on write from then on, where the file system would. */
  readonly noCow?: boolean
  /** Of a longer one: what is new has storage, or at least places. When that fails, the length is what it was. */
  readonly preallocate?: Preallocate
}

export interface ZeroHow {
  /** Storage may be given back. */
  readonly unmap: boolean
  /** Fail with ENOTSUP rather than write zeroes. */
  readonly fast: boolean
  /** Only where nothing is stored in this layer yet, and then stored, whatever shows through. Formats with backing files only. */
  readonly below?: boolean
  /** Also what reads as zero because this layer stores nothing is stored, as zero: the image may lie above others one day. */
  readonly stored?: boolean
}

/** A byte range with one status. */
export interface Extent {
  readonly offset: number
  readonly length: number
  /** 'zero' is proved: the range reads as zeroes. */
  readonly kind: 'data' | 'zero'
  /** Stored in this layer, as against shown through from below or absent. */
  readonly allocated: boolean
  /** Layers of the backing chain above the one it was found in; default 0. */
  readonly depth?: number
  /** Where it lies in that layer's storage, bytes, where it lies in one piece. */
  readonly host?: number
  /** It reads as zero although the image has a place for data: the storage has a hole there. */
  readonly hole?: boolean
  /** Stored compressed. */
  readonly compressed?: boolean
  /** In no layer of a chain: it reads as zero because nobody ever wrote it. */
  readonly absent?: boolean
}

/** Rights a user has on a node (`use`) and leaves to others (`share`). Names as QEMU's permissions. */
export interface Permissions {
  readonly use: readonly Permission[]
  readonly share: readonly Permission[]
}
/** All of them, in the order of their bits in image locks. */
export const PERMISSIONS = ['consistent read', 'write', 'write unchanged', 'resize'] as const
export type Permission = (typeof PERMISSIONS)[number]

/** All but one. */
export function without(permission: Permission): readonly Permission[] {
  return PERMISSIONS.filter((one) => one !== permission)
}

/** What a driver wants of one of its children, given what its own users want of it; undefined: as usual. */
export type ChildPermissions = (role: string, own: Permissions) => Permissions | undefined

/** How an image names its backing file. */
export interface BackingFile {
  readonly name: string
  readonly format: string | undefined
}

/** Whether `offset` is dirty, and up to where the same is known; asked for no further than `length` bytes. */
export type DirtyLook = (
  offset: number,
  length: number,
) => Promise<{ readonly dirty: boolean; readonly end: number }>

export interface BlockDriver {
  readonly type: DriverName
  /** What shows through where nothing is allocated. Formats only. */
  readonly backing?: BlockNode | undefined
  /** What the node was when it was opened; kept by copy-before-write only. */
  readonly snapshot?: Snapshot
  /** Default: the child is used as the node is. */
  readonly childPermissions?: ChildPermissions
  /** Where persistent bitmaps are kept. Formats that can. */
  readonly bitmapStore?: BitmapStore | undefined
  readonly limits: Limits
  readonly can: Can
  /** Exact bytes; a file's last sector may be partial. */
  length(): number
  /** @returns with `scan`: whether all bytes read are zero; else false */
  read(offset: number, into: Slice, how?: ReadHow): Promise<boolean>
  write(offset: number, from: Slice, how?: WriteHow): Promise<void>
  /**
   * Pieces that lie apart, so many of them at once; in the slice they follow each other. All of them inside the exact length.
   * Only leaves that do it in less than one request per piece; for others the node asks piece by piece.
   */
  readPieces?(pieces: readonly Range[], into: Slice, atOnce: number, how?: ReadHow): Promise<boolean>
  writePieces?(pieces: readonly Range[], from: Slice, atOnce: number): Promise<void>
  zero(offset: number, length: number, how: ZeroHow): Promise<void>
  discard(offset: number, length: number): Promise<void>
  /** The first extent at `offset`, at most to offset + length; longer where the driver knows more for free. */
  status(offset: number, length: number, how?: StatusHow): Promise<Extent>
  flush(): Promise<void>
  resize?(length: number, how?: ResizeHow): Promise<void>
  /**
   * Makes the storage reach to the end of a range that is about to be written, and never shorter, whoever else uses it. Other
   * requests go on meanwhile. Leaves only, where they are files.
   */
  grow?(offset: number, length: number): Promise<void>
  /**
   * Lends the file that the storage is, or passes it on from below. Only where a request is nothing but one on the file, at the
   * same place. `back` of the loan tells that it is over.
   */
  lend?(borrower: Borrower): Loan | undefined
  /** Locks the storage against other programs, or changes the lock; `undefined` releases it. Leaves only. */
  lock?(permissions: Permissions | undefined): Promise<void>
  /** On reopening, while the node is drained: takes over the locks of the driver that was in use until now. */
  takeOver?(previous: BlockDriver): Promise<void>
  /** On reopening, when it is in the place of the other one and nothing can fail any more: what both share follows its options. */
  placed?(): void
  /**
   * Called when the node is in the graph and has what childPermissions() asks for: the driver uses what lies below by itself from now
   * on, whoever uses the node, until end(). Not called again for a driver that is opened in the place of another.
   */
  begin?(): Promise<void>
  /** The node is being removed, or begin() has failed. */
  end?(): Promise<void>
  /** Lets requests go on that the driver itself holds back without end; called before it is replaced or closed. */
  release?(): void
  /**
   * A job that used the node was cancelled by force: requests on which storage stays silent fail soon, so that the job can
   * end. Leaves only, where that is possible.
   */
  hurry?(): void
  /** A job goes on after a pause: storage that was lost is looked for again. Leaves only, where that is possible. */
  revive?(): Promise<void>
  /** Nobody used the storage for a while: what was learned of its size and content is learned anew. Children come first. */
  freshen?(): Promise<void>
  /** The last user has left: what is held back goes to the children, and is durable. Other programs may follow. */
  settle?(): Promise<void>
  /**
   * In a drained section: another node, which shows the same, takes the place of a child.
   * @param node  undefined: nothing shows through any more
   */
  replaceChild?(role: string, node: BlockNode | undefined): void
  /** The image names another backing file, or none: durable on return. Formats with backing files only. */
  nameBacking?(backing: BackingFile | undefined): Promise<void>
  /** Drops what is stored in this layer, durably. Formats only. */
  empty?(): Promise<void>
  /** What users are told of the image. Formats only. */
  format?(): FormatFacts
  /** What the server of a leaf tells of the one dirty bitmap it offers; undefined: it offers none, or several. */
  dirty?(): DirtyLook | undefined
  /** Facts of the file behind a leaf, asked anew. */
  facts?(): Promise<FileFacts | undefined>
  close(): Promise<void>
}
