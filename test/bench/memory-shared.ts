// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- shared`: a running guest with its memory in a shared file is saved by `blockferry memory save --qmp`: how
// long it stands still, against the time that the disk needs for so many bytes.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../daemon/cli/run.js'
import { fileSystemAbsent, MountedImage } from '../helpers/loop.js'
import type { Guest } from '../helpers/migration/guest.js'
import { rateText, writeRate } from './disk-rate.js'
import { allocated, dropCaches } from './images.js'
import { empty, filled, qemus, read, remark, sizeText, verify } from './memory-guest.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, median, print, round, table, type Verdict } from './report.js'

/** Room for the guest's memory, bytes. */
const ROOM = 4 * 2 ** 30

interface Round {
  readonly stoppedMs: number
  readonly seconds: number
  /** Bytes of data in the file. */
  readonly data: number
  /** Bytes a second of the disk, just before. */
  readonly disk: number
}

export async function shared(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## Saving a guest whose memory lies in a file: ${sizeText(options)}\n`)
  const absent = fileSystemAbsent('tmpfs')
  if (absent !== false) throw new Error(absent)
  // Not on the disk: the kernel would write what the guest changes.
  using volume = MountedImage.make(options.directory, 'tmpfs', 2 * (options.size ?? ROOM))
  const path = join(volume.path, 'memory')
  const rows: string[][] = []
  const verdicts: Verdict[] = []
  for (const qemu of qemus(options)) {
    const rounds: Round[] = []
    await using guest = await filled(qemu, options, { file: { path } })
    try {
      await guest.cont()
      for (let turn = 0; turn < options.rounds; turn++) {
        const last = turn === options.rounds - 1
        rounds.push(await save(guest, options, last))
        remark(`${qemu.name}, round ${turn + 1}: stopped ${round(rounds.at(-1)?.stoppedMs ?? 0)} ms`)
      }
    } finally {
      rmSync(path, { force: true })
    }
    const over = median(
      rounds.map(({ stoppedMs, data, disk }) => stoppedMs - 100 - (data / (0.9 * disk)) * 1000),
    )
    rows.push([
      qemu.name,
      rounds.map(({ stoppedMs }) => round(stoppedMs)).join(' '),
      rounds.map(({ data, disk }) => round((data / disk) * 1000)).join(' '),
      rounds.map(({ seconds }) => round(seconds)).join(' '),
      mebibytes(rounds.at(-1)?.data ?? 0),
    ])
    verdicts.push(
      atMost(`shared: ${qemu.name}: stopped, beyond the disk's time / 0.9 + 100 ms`, over, 0, ' ms'),
    )
    print(rateText(rounds.map(({ disk }) => disk)))
  }
  print(table(['QEMU', 'guest stopped ms', 'the disk’s time ms', 'whole command s', 'data'], rows))
  return verdicts
}

async function save(guest: Guest, options: BenchOptions, restore: boolean): Promise<Round> {
  const file = join(options.directory, 'saved')
  rmSync(file, { force: true })
  dropCaches()
  const disk = writeRate(options.directory)
  // Of earlier stops.
  guest.qmp.events.splice(0)
  const begun = performance.now()
  const args = ['memory', 'save', '--qmp', guest.monitor('other'), '--rename', 'mem0=pc.ram', '--quiet', file]
  const running = run(args, { env: { TMPDIR: options.directory } })
  const [stopped, resumed] = [guest.qmp.event('STOP').then(now), guest.qmp.event('RESUME').then(now)]
  const { status, stderr } = await running
  if (status !== 0) throw new Error(stderr)
  const seconds = (performance.now() - begun) / 1000
  const stoppedMs = (await resumed) - (await stopped)
  const data = allocated(file)
  if (restore) {
    await guest.kill()
    await using destination = await empty(guest.options.qemu, options)
    await read(destination, file, 'mapped-ram')
    await verify(destination)
  }
  rmSync(file)
  return { stoppedMs, seconds, data, disk }
}

function now(): number {
  return performance.now()
}
