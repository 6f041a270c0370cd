// SPDX-License-Identifier: Apache-2.0
// Commands about the connection and the daemon itself.

import { any, arrayOf, bool, command, enumOf, int, optional, required, str, struct } from './types.js'

const qmpCapability = enumOf('QMPCapability', ['oob'])

const versionTriple = struct('VersionTriple', {
  major: required(int, 'First part of the version.'),
  minor: required(int, 'Second part.'),
  micro: required(int, 'Third part.'),
})

const versionInfo = struct('VersionInfo', {
  qemu: required(versionTriple, 'Version, in the shape that clients look for.'),
  package: required(str, 'Free text: name and version of the program.'),
})

const commandInfo = struct('CommandInfo', {
  name: required(str, 'Name of the command.'),
})

const chardevInfo = struct('ChardevInfo', {
  label: required(str, 'Id of the character device.'),
  filename: required(str, 'Where it is: `unix:PATH,server=on`, `tcp:HOST:PORT`, ….'),
  'frontend-open': required(bool, 'A monitor uses it.'),
})

export const sessionCommands = {
  qmp_capabilities: command({
    doc: 'Ends negotiation: commands are accepted and events sent from now on.',
    arguments: struct('qmp_capabilities-arg', {
      enable: optional(arrayOf(qmpCapability), 'Capabilities of the greeting to switch on.'),
    }),
  }),
  'query-version': command({ doc: 'Version of the daemon.', returns: versionInfo }),
  'query-commands': command({ doc: 'Names of all commands.', returns: arrayOf(commandInfo) }),
  'query-qmp-schema': command({
    doc: 'The wire format of all commands and events. Names of types are masked by numbers.',
    returns: arrayOf(any),
  }),
  'query-chardev': command({ doc: 'Character devices, monitors among them.', returns: arrayOf(chardevInfo) }),
  quit: command({
    doc: 'Ends the daemon: jobs are cancelled, nodes flushed and closed, sockets removed. The reply comes last.',
  }),
}
