// SPDX-License-Identifier: Apache-2.0
// Servers of images over HTTP that the bench compares, and the clients that load them: the daemon, and oVirt's own where
// --imageio names a folder with its sources.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { request } from '../helpers/images/http-client.js'
import { ImageioPeer, imageioAbsent } from '../helpers/images/imageio-peer.js'
import { blockferryd, buildFolder } from '../helpers/program.js'
import { pace } from '../helpers/waiting.js'
import type { BenchOptions } from './options.js'

const TICK = 100

export interface ImagesServer extends AsyncDisposable {
  readonly port: number
  log(): string
  /** CPU seconds so far. */
  cpu(): number
  /** Bytes: resident now, and at most. */
  memory(): { readonly rss: number; readonly peak: number }
  /** A ticket to read and write a file. @returns the path of its image */
  ticket(file: string, size: number, sparse: boolean): Promise<string>
}

export interface ImagesServerKind {
  readonly name: string
  start(directory: string): Promise<ImagesServer>
}

/** Ours first. */
export function imagesServers({ imageio }: BenchOptions): ImagesServerKind[] {
  const ours = { name: 'blockferryd', start: startOurs }
  if (imageio === undefined) return [ours]
  const absent = imageioAbsent(imageio)
  if (absent !== false) throw new Error(absent)
  return [ours, { name: 'ovirt-imageio', start: (directory) => startPeer(imageio, directory) }]
}

async function startOurs(directory: string): Promise<ImagesServer> {
  const control = join(directory, 'tickets')
  const args = ['--log-level', 'info', '--images', 'http://127.0.0.1:0', '--images-control', control]
  const daemon = await Daemon.start({ directory, program: blockferryd, args })
  let port: string | undefined
  while (port === undefined) {
    port = /"service":"remote".*"port":(\d+),"msg"/.exec(daemon.running.stderr())?.[1]
    if (port === undefined) await pace(20)
  }
  return {
    port: Number(port),
    log: () => daemon.running.stderr(),
    cpu: () => daemon.cpu().user + daemon.cpu().system,
    memory: () => daemon.memory(),
    ticket: (file, size, sparse) => addTicket(control, file, size, sparse),
    [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
  }
}

async function startPeer(sources: string, directory: string): Promise<ImagesServer> {
  const peer = await ImageioPeer.start(sources, directory)
  const { pid, port, control } = peer
  return {
    port,
    log: () => peer.log,
    cpu() {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
      return (Number(fields[11]) + Number(fields[12])) / TICK
    },
    memory() {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      const of = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) * 1024
      return { rss: of('VmRSS'), peak: of('VmHWM') }
    },
    ticket: (file, size, sparse) => addTicket(control, file, size, sparse),
    [Symbol.asyncDispose]: () => peer[Symbol.asyncDispose](),
  }
}

let tickets = 0

async function addTicket(control: string, file: string, size: number, sparse: boolean): Promise<string> {
  const uuid = `bench${tickets++}`
  const body = { uuid, size, ops: ['read', 'write'], timeout: 600, url: `file://${file}`, sparse }
  const { status, text } = await request(control, 'PUT', `/tickets/${uuid}`, {}, JSON.stringify(body))
  if (status !== 200) throw new Error(text)
  return `/images/${uuid}`
}

export interface Load {
  readonly seconds: number
  /** Of the clients. */
  readonly cpu: number
  /** Requests. */
  readonly count: number
  /** Seconds to the first byte of extents, and how many there were. */
  readonly first: number
  readonly extents: number
}

/** What clients of a server got done. */
export async function load(
  kind: string,
  { port, log }: ImagesServer,
  path: string,
  ...more: readonly (string | number)[]
): Promise<Load> {
  const script = `${buildFolder}../test/bench/http-load.py`
  const args = [script, kind, String(port), path, ...more.map(String)]
  const child = spawn('python3', args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text
  })
  const status = await new Promise((resolve) => child.once('close', resolve))
  if (status !== 0) throw new Error(`http-load.py ${kind}: ${err}${log()}`)
  return JSON.parse(out)
}
