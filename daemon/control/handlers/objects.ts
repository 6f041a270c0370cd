// SPDX-License-Identifier: Apache-2.0
// object-add, object-del and the object tree's three commands: `/objects/ID` is all there is of the tree.

import type { JsonValue } from '../../../protocol/json-value.js'
import { throttleLimits } from '../../../protocol/schema/objects.js'
import { type AnyType, type Infer, int } from '../../../protocol/schema/types.js'
import { ArgumentError, validate } from '../../../protocol/schema/validate.js'
import { CommandError } from '../../errors.js'
import type { Budgets } from '../budgets.js'
import type { Handlers } from '../commands.js'
import type { Directory } from '../directory.js'
import { type ObjectDefinition, type Objects, propertiesOf } from '../objects.js'
import type { DiskWorkers } from '../workers.js'

const ROOT = '/objects'

/** @param changed  told of every object that comes or goes; awaited */
export function objectHandlers(
  objects: Objects,
  directory: Directory,
  workers: DiskWorkers,
  budgets: Budgets,
  changed: () => Promise<void>,
) {
  const used = (id: string) =>
    budgets.inUse(id) || [...directory.all()].some((node) => node.spec['throttle-group'] === id)
  return {
    'object-add': async (definition) => {
      objects.add(definition)
      await changed()
    },

    'object-del': async ({ id }) => {
      if (objects.get(id) === undefined) throw new CommandError(`object '${id}' not found`)
      if (used(id)) throw new CommandError(`object '${id}' is in use, can not be deleted`)
      objects.remove(id)
      await workers.changeGroup(id, null)
      await changed()
    },

    'qom-list': ({ path }) => {
      if (path === '/') return [TYPE, { name: 'objects', type: 'child<container>' }]
      if (path === ROOT)
        return [TYPE, ...objects.list().map((object) => ({ name: object.id, type: childType(object) }))]
      return [...propertiesOf(find(objects, path))].map(([name, value]) => ({
        name,
        type: typeName(name, value),
      }))
    },

    'qom-get': ({ path, property }) => {
      if ((path === '/' || path === ROOT) && property === 'type') return 'container'
      const object = find(objects, path)
      const value = propertiesOf(object).get(property)
      if (value === undefined) throw noProperty(object, property)
      return value
    },

    'qom-set': async ({ path, property, value }) => {
      const object = find(objects, path)
      if (!propertiesOf(object).has(property)) throw noProperty(object, property)
      if (property.startsWith('x-')) throw new CommandError('Property cannot be set after initialization')
      if (property === 'bandwidth') {
        objects.setBandwidth(object.id, taken(int, value, property))
        budgets.divide(object.id)
        return
      }
      if (property !== 'limits') throw new CommandError('Insufficient permission to perform this operation')
      objects.setLimits(object.id, taken(throttleLimits, value, property))
      await workers.changeGroup(object.id, objects.limits(object.id) ?? null)
    },
  } satisfies Handlers
}

const TYPE = { name: 'type', type: 'string' }

function find(objects: Objects, path: string): ObjectDefinition {
  const id = path.startsWith(`${ROOT}/`) ? path.slice(ROOT.length + 1) : path
  const object = objects.get(id)
  if (object === undefined) throw new CommandError(`Device '${path}' not found`, 'DeviceNotFound')
  return object
}

function taken<T extends AnyType>(type: T, value: JsonValue, property: string): Infer<T> {
  try {
    return validate(type, value, property)
  } catch (error) {
    if (error instanceof ArgumentError)
      throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
}

function childType(object: ObjectDefinition): string {
  return `child<${object['qom-type']}>`
}

function typeName(name: string, value: unknown): string {
  if (name === 'policy') return 'QAuthZListPolicy'
  switch (typeof value) {
    case 'string':
      return 'string'
    case 'number':
      return 'int'
    case 'boolean':
      return 'bool'
    default:
      return Array.isArray(value) ? 'QAuthZListRule' : 'ThrottleLimits'
  }
}

function noProperty(object: ObjectDefinition, property: string): CommandError {
  return new CommandError(`Property '${object['qom-type']}.${property}' not found`)
}
