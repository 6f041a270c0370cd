// SPDX-License-Identifier: Apache-2.0
// Programs of a Debian folder (as debootstrap makes one), started where a folder of ours has the same path inside.
// Used for the newer QEMU: its storage daemon, its tools, its system emulator.

/**
 * The mounts belong to a mount namespace that ends with the program, however it ends. The empty file system over the
 * top folder of our path keeps the Debian folder as it was: the mount point is made in it.
 */
const SCRIPT = [
  'top=$0/$(echo "$1" | cut -d/ -f2) && mkdir -p "$top" && mount -t tmpfs none "$top"',
  'mkdir -p "$0$1" && mount --rbind "$1" "$0$1"',
  'root=$0 && shift && exec chroot "$root" "$@"',
].join(' && ')

/**
 * The command line that starts a program of `root`; its process is the program's own, so its pid is that of whoever is
 * started. Who is not root becomes it in a user namespace of its own, where the kernel allows that.
 * @param directory  absolute; not below a folder that programs live in, such as /usr
 */
export function inFolder(
  root: string,
  directory: string,
  ...command: readonly [string, ...string[]]
): readonly [string, ...string[]] {
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user']
  return ['unshare', ...user, '--mount', 'sh', '-c', SCRIPT, root, directory, ...command]
}
