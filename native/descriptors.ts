// SPDX-License-Identifier: Apache-2.0
// Descriptors that others gave us, as numbers. Used by the control plane, whose thread never waits: nothing here does.

import { addon, type NativeDescriptors } from './binding.js'

/** What a descriptor lets its owner do with the contents: the access mode it was opened with. */
export type Access = 'read' | 'write' | 'both'

/** By O_RDONLY, O_WRONLY and O_RDWR. */
const modes: readonly Access[] = ['read', 'write', 'both']

let native: NativeDescriptors | undefined

/** One for each thread that needs it. */
function descriptors(): NativeDescriptors {
  native ??= new addon.Descriptors()
  return native
}

/** undefined for a descriptor that gives no access (O_PATH), or a number that is none. */
export function accessOf(fd: number): Access | undefined {
  return modes[descriptors().accessMode(fd)]
}

/** Another number for the same open file, closed on exec; or -errno. */
export function duplicate(fd: number): number {
  return descriptors().duplicate(fd)
}

/**
 * A descriptor of the same file that gives no access itself; or -errno. Its name `/proc/PID/fd/N` can be opened anew with any
 * flags, as far as the permissions of the file allow, and closing it never waits for storage.
 */
export function referenceTo(fd: number): number {
  return descriptors().referenceTo(fd)
}

/** Whether it is a Unix stream socket: over such a socket descriptors can come. */
export function isLocalStream(fd: number): boolean {
  return descriptors().isLocalStream(fd)
}

/**
 * Listens at a path where only the owner of this process may connect. A file-system call: for threads that may wait.
 * @returns the descriptor, or -errno
 */
export function listenLocal(path: string): number {
  return descriptors().listenLocal(path)
}

/** Two stream sockets connected with each other, the caller's; or -errno. */
export function localPair(): readonly [number, number] | number {
  return descriptors().localPair()
}

/** Closes it soon, on another thread: file systems may ask their storage at every close. */
export function closeDescriptor(fd: number): void {
  descriptors().close(fd)
}
