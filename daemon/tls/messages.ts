// SPDX-License-Identifier: Apache-2.0
// What crosses the line between a disk's worker and the thread that encrypts its connections, and where credentials are.
// Both sides import this file, and it imports nothing that runs.

import type * as wire from '../common/worker-messages.js'

/** Where an end has its credentials, as object-add was told. */
export type CredentialsPlace =
  | {
      readonly kind: 'x509'
      /** Folder of the files. */
      readonly dir: string
      /** The other end needs a certificate that the CA signed. */
      readonly verifyPeer: boolean
    }
  | {
      readonly kind: 'psk'
      readonly dir: string
      /** Name of the file in the folder. */
      readonly file: string
      /** Which of the keys a client has. */
      readonly username: string
    }

/** Certificates of one end, and who is believed. Contents of files. */
export interface Certificates {
  readonly ca: string
  /** Certificates that are taken back. */
  readonly crl?: string
  readonly cert?: string
  readonly key?: string
}

/** What a client was found to have. */
export type ClientCredentials =
  | ({ readonly kind: 'x509'; readonly dir: string; readonly verifyPeer: boolean } & Certificates)
  | { readonly kind: 'psk'; readonly dir: string; readonly username: string; readonly key: Uint8Array }

export interface Requests {
  /**
   * Begins to encrypt a connection; replied when TLS is agreed on. Both descriptors are the thread's from now on.
   * @param connection  a number for it, for `ended`
   * @param fd          connected to the server
   * @param plain       one end of a pair of sockets, whose other end has what is decrypted
   * @param hostname    who the server's certificate has to name
   */
  secure: {
    args: { connection: number; fd: number; plain: number; hostname: string | undefined }
    reply: null
  }
  /** Why a connection ended that was agreed on; null: the server closed it in order, or it has not ended. */
  ended: { args: { connection: number }; reply: string | null }
  /** Replied when all connections are closed, or at the deadline. */
  shutdown: { args: { deadlineMs: number }; reply: null }
}

/** It tells nothing by itself. */
export type Report = never

export type ToWorker = wire.ToWorker<Requests>
export type FromWorker = wire.FromWorker<Report>

/** What a worker is started with (`workerData`). */
export interface WorkerSetup {
  readonly credentials: ClientCredentials
}
