// SPDX-License-Identifier: Apache-2.0
// `blockferry mirror`: copies an image to a file that the daemon makes or opens itself (drive-mirror), or to a device,
// which is opened as a node (blockdev-mirror).

import { type CopyTools, runCopy } from './copy-run.js'
import { addImage, findImage } from './image.js'
import { JsonResult } from './json-result.js'
import { checkNamed, type Ends, lookAt, type MirrorOptions } from './mirror-request.js'
import { sizeOfNode } from './node-size.js'
import { failed } from './status.js'
import { addNode, type End, storageDefinition } from './storage.js'

/** @throws CliError for every end but success */
export async function mirror(sourceName: string, targetName: string, options: MirrorOptions): Promise<void> {
  const result = options.json ? new JsonResult(sourceName, targetName) : undefined
  try {
    checkNamed(sourceName, targetName)
    const source = await findImage(sourceName, options.sourceFormat)
    const { existing, targetFormat = 'raw' } = options
    const whole = source.options === undefined && source.format === 'raw'
    const sameSize = existing && whole && targetFormat === 'raw'
    const ends = await lookAt(source.end, targetName, { existing, sameSize })
    const start = (tools: CopyTools) => startTarget(ends, options, tools, 'mirror')
    const words = { verb: 'mirror', done: 'mirrored', quiet: false }
    await runCopy({ ...words, source, target: ends.target, options, start }, result)
  } catch (error) {
    result?.tellError(error)
    throw error
  }
}

/** Opens the target in the way its kind asks for, and starts the job. */
export async function startTarget(
  ends: Ends,
  options: MirrorOptions,
  tools: CopyTools,
  kind: 'mirror' | 'backup',
): Promise<void> {
  const { client, job, direct } = tools
  const { target } = ends
  const targetNode = tools.node('target')
  const guessed = options.existing && options.targetFormat === undefined
  if (target.kind === 'block') await addDevice(ends, tools, targetNode, options)
  else if (target.kind === 'nbd') await addExport(ends, tools, targetNode, options)
  else if (guessed) {
    tools.touching()
    const image = { end: target, format: 'raw', guessed } as const
    const how = { readOnly: false, direct, unmap: options.unmap }
    await addImage(client, image, targetNode, how)
  } else {
    tools.touching()
    await client.execute(`drive-${kind}`, {
      ...job,
      target: target.path,
      format: options.targetFormat ?? 'raw',
      mode: options.existing ? 'existing' : 'absolute-paths',
      ...(kind === 'mirror' && { 'node-name': targetNode, unmap: options.unmap }),
    })
    return
  }
  tools.touching()
  await client.execute(`blockdev-${kind}`, { ...job, target: targetNode })
}

/** A device may be larger than the source: then only its beginning is the target of a raw copy. */
async function addDevice(
  { source: from, target: end }: Ends,
  { client, direct, source, touching }: CopyTools,
  node: string,
  { unmap, targetFormat, existing }: MirrorOptions,
): Promise<void> {
  const guessed = existing && targetFormat === undefined
  const image = { end, format: targetFormat ?? 'raw', guessed }
  const how = { readOnly: false, direct, unmap }
  await addImage(client, image, node, how)
  const [wanted, size] = [await sizeOfNode(client, source), await sizeOfNode(client, node)]
  if (size < wanted) throw tooSmall(end, size, from, wanted)
  if (size === wanted || image.format !== 'raw') return
  await client.execute('blockdev-del', { 'node-name': node })
  touching()
  await addImage(client, image, node, { ...how, size: wanted })
}

/** The same with one connection only: a server may serve one client and end with it. */
async function addExport(
  { source: from, target: end }: Ends,
  { client, direct, source, touching, node: named }: CopyTools,
  node: string,
  { unmap, targetFormat, existing }: MirrorOptions,
): Promise<void> {
  const server = named('target-server')
  const discard = unmap ? 'unmap' : 'ignore'
  await addNode(client, end, { ...storageDefinition(end), 'node-name': server, discard })
  const [wanted, size] = [await sizeOfNode(client, source), await sizeOfNode(client, server)]
  if (size < wanted && targetFormat !== 'qcow2') throw tooSmall(end, size, from, wanted)
  touching()
  const image = { end, format: targetFormat ?? 'raw', guessed: existing && targetFormat === undefined }
  const part = size > wanted && image.format === 'raw' ? { size: wanted } : {}
  const how = { readOnly: false, direct, unmap, on: server, ...part }
  await addImage(client, image, node, how)
}

export function tooSmall(end: End, size: number, from: End, wanted: number) {
  return failed(`'${end.name}' is too small: ${size} bytes, '${from.name}' has ${wanted} bytes`)
}
