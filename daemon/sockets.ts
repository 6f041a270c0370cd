// SPDX-License-Identifier: Apache-2.0
// Makes the sockets the daemon is steered over, at start-up and at the end only, and in the NBD server's worker that server's
// own: this is where file-system calls for sockets happen. Rules: a path is taken over only from a socket nobody listens on, and removed only while it is ours.

import {
  chmodSync,
  chownSync,
  existsSync,
  fstatSync,
  linkSync,
  lstatSync,
  readFileSync,
  unlinkSync,
} from 'node:fs'
import { connect, createServer, type ListenOptions, type Server, Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { threadId } from 'node:worker_threads'
import { isLocalStream, listenLocal } from '../native/descriptors.js'
import { LocalSocket } from '../native/local-socket.js'
import { ENOENT, errnoText } from './common/errno.js'
import { StartError } from './start-error.js'

/** Clients that may wait to be accepted; the kernel's own limit is 4096 where it was not changed. */
const BACKLOG = 4096

/** Bytes of a Unix socket's path at most, with its end; libuv would cut a longer one silently. */
const PATH_ROOM = 108
/** For chown: leaves the owner as it is. */
const SAME_USER = 2 ** 32 - 1

export interface Bound {
  readonly server: Server
  /** Takes the socket's file away if it is still the one made here, and stops listening. */
  remove(): void
}

export interface UnixSocketOptions {
  readonly path: string
  /** Permission bits of the socket's file. */
  readonly mode: number
  /** Name or number of its group; undefined: the process's. */
  readonly group: string | undefined
}

/**
 * Listens on a Unix socket at `path`. It appears there when it can be connected to, with the permissions asked for: it is
 * bound under another name of the folder first.
 */
export async function listenUnix(options: UnixSocketOptions): Promise<Bound> {
  const { path } = options
  const gid = options.group === undefined ? undefined : groupId(options.group)
  checkLength(path)
  // libuv reports a missing folder as EACCES.
  if (!existsSync(dirname(path)))
    throw new StartError(`Failed to bind socket to ${path}: ${errnoText(ENOENT)}`)
  await claim(path)
  const draft = join(
    dirname(path),
    `.${process.pid.toString(36)}${threadId.toString(36)}${(drafts++).toString(36)}`,
  )
  checkLength(draft)
  const server = await listenPrivately(draft, path)
  try {
    if (gid !== undefined) chownSync(draft, SAME_USER, gid)
    chmodSync(draft, options.mode)
    linkSync(draft, path)
  } catch (error) {
    server.close()
    throw failure(`Failed to bind socket to ${path}`, error)
  }
  unlinkSync(draft)
  const made = lstatSync(path)
  const remove = () => {
    const there = lstatSync(path, { throwIfNoEntry: false })
    if (there?.ino === made.ino && there.dev === made.dev) unlinkSync(path)
    server.close()
  }
  return { server, remove }
}

/** Number of sockets bound under a passing name so far. */
let drafts = 0

/** Binds `draft` so that only its owner may connect. */
function listenPrivately(draft: string, path: string): Promise<Server> {
  const fd = listenLocal(draft)
  if (fd < 0) throw new StartError(`Failed to bind socket to ${path}: ${errnoText(-fd)}`)
  return listen({ fd }, `Failed to bind socket to ${path}`)
}

/** Listens on TCP. Names are looked up here, once. */
export async function listenTcp(host: string, port: number): Promise<Bound> {
  const server = await listen({ host, port }, `Failed to find an available port`)
  return { server, remove: () => server.close() }
}

/** Listens on an inherited descriptor that is already bound and listening. */
export async function listenFd(fd: number): Promise<Bound> {
  checkSocket(fd)
  const server = await listen({ fd }, `Failed to listen on descriptor ${fd}`)
  return { server, remove: () => server.unref() }
}

/** Connects to somebody who listens. A local connection reads nothing before the stream is read. */
export async function connectTo(
  where: { path: string } | { host: string; port: number },
): Promise<LocalSocket | Socket> {
  const name = 'path' in where ? where.path : `${where.host}:${where.port}`
  if ('path' in where) checkLength(name)
  return new Promise((resolve, reject) => {
    const socket = connect({ ...where, allowHalfOpen: true })
    const refuse = (error: Error) => reject(failure(`Failed to connect to '${name}'`, error))
    socket.once('error', refuse)
    socket.once('connect', () => {
      socket.off('error', refuse)
      try {
        resolve(LocalSocket.takeOver(socket, { allowHalfOpen: true }) ?? socket)
      } catch (error) {
        refuse(error as Error)
      }
    })
  })
}

/** Wraps an inherited descriptor of a connected socket. */
export function adopt(fd: number): LocalSocket | Socket {
  checkSocket(fd)
  if (isLocalStream(fd)) return new LocalSocket(fd, { allowHalfOpen: true })
  return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true })
}

/** Numbers of the sockets the service manager passed: LISTEN_FDS from 3 on, if LISTEN_PID is this process. */
export function passedDescriptors(env: NodeJS.ProcessEnv, pid: number): number[] {
  if (env.LISTEN_PID !== String(pid)) return []
  const count = Number(env.LISTEN_FDS ?? 0)
  if (!Number.isInteger(count) || count < 0 || count > 4096) return []
  return Array.from({ length: count }, (_, index) => 3 + index)
}

/** Makes `path` free: removes a socket nobody listens on, refuses everything else that is there. */
async function claim(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket()) throw new StartError(`'${path}' is there and is not a socket`)
  if (await somebodyListens(path)) throw new StartError(`somebody listens on '${path}' already`)
  const again = lstatSync(path, { throwIfNoEntry: false })
  if (again?.ino === found.ino && again.dev === found.dev) unlinkSync(path)
}

function somebodyListens(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect({ path })
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false)
      else if (error.code === 'EAGAIN') resolve(true)
      else reject(failure(`Failed to look whether somebody listens on ${path}`, error))
    })
  })
}

function listen(where: ListenOptions | { fd: number }, what: string): Promise<Server> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  return new Promise((resolve, reject) => {
    const refuse = (error: Error) => reject(failure(what, error))
    server.once('error', refuse)
    server.listen({ ...where, backlog: BACKLOG }, () => {
      server.off('error', refuse)
      resolve(server)
    })
  })
}

function checkLength(path: string): void {
  if (Buffer.byteLength(path) >= PATH_ROOM) throw new StartError(`UNIX socket path '${path}' is too long`)
}

function checkSocket(fd: number): void {
  if (!isSocket(fd)) throw new StartError(`File descriptor '${fd}' is not a socket`)
}

function isSocket(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket()
  } catch {
    // Not open: EBADF is all that fstat says of a descriptor.
    return false
  }
}

function groupId(name: string): number {
  if (/^\d+$/.test(name)) return Number(name)
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`))
  const gid = line?.split(':')[2]
  if (gid === undefined) throw new StartError(`there is no group '${name}'`)
  return Number(gid)
}

function failure(what: string, error: unknown): StartError {
  const { errno, syscall, message } = error as NodeJS.ErrnoException
  const why = errno === undefined || syscall === 'getaddrinfo' ? message : errnoText(-errno)
  return new StartError(`${what}: ${why}`, undefined, { cause: error })
}
