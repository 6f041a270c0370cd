// SPDX-License-Identifier: Apache-2.0
// Names by which images name each other: what a backing file's name in an image means. Used where images are opened,
// made and shown. Pure.

/** The protocol a name begins with, `nbd` of `nbd://host`; undefined for a path. */
export function protocolOf(name: string): string | undefined {
  return /^([^/:]*):/.exec(name)?.[1]
}

/**
 * @param image  path of the image that names it
 * @param name   a name in the image: a path from the image's folder, an absolute one, or of a protocol (`json:{…}`)
 * Paths are joined and not cleaned: what `..` means is the file system's to say.
 */
export function fullName(image: string, name: string): string {
  if (name === '' || name.startsWith('/') || protocolOf(name) !== undefined) return name
  return image.slice(0, image.lastIndexOf('/') + 1) + name
}
