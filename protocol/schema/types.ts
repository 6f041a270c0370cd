// SPDX-License-Identifier: Apache-2.0
// The vocabulary the schema is written in. One description gives the TypeScript types (Infer), the validator,
// query-qmp-schema, the command line's option strings and the reference manual.
// Used by the files of this folder; nothing here runs after start-up.

import type { JsonValue } from '../json-value.js'

/** Carries the TypeScript type of a schema type; never called, never set. */
interface Typed<T> {
  readonly typed?: () => T
}

/**
 * int: within int64; size, uint64: also negative int64 (which the reference daemon wraps and we hand on as it is);
 * uint8/16/32: checked ranges. All come out as safe integers.
 */
export type NumberName = 'int' | 'size' | 'uint64' | 'uint32' | 'uint16' | 'uint8'

export interface BuiltinType<T = unknown> extends Typed<T> {
  readonly kind: 'builtin'
  readonly name: 'str' | 'bool' | 'number' | 'any' | 'null' | NumberName
}

export interface EnumType<V extends string = string> extends Typed<V> {
  readonly kind: 'enum'
  readonly name: string
  readonly values: readonly V[]
}

export interface Member<T extends AnyType = AnyType, O extends boolean = boolean> {
  readonly type: T
  readonly optional: O
  /** One sentence, with the unit. */
  readonly doc: string
  /** What absence means; for the manual. The validator leaves absent members absent. */
  readonly default?: string | number | boolean
  /** Not in the reference daemon. Members named `x-…` always are extensions. */
  readonly extension?: boolean
}

export type Members = Readonly<Record<string, Member>>

export interface StructType<T = unknown> extends Typed<T> {
  readonly kind: 'struct'
  readonly name: string
  readonly members: Members
}

export interface ArrayType<T = unknown> extends Typed<T> {
  readonly kind: 'array'
  readonly element: AnyType
}

/** An object whose members depend on the value of one of them; all stand side by side. */
export interface UnionType<T = unknown> extends Typed<T> {
  readonly kind: 'union'
  readonly name: string
  readonly base: Members
  /** A member of `base`, an enum. */
  readonly tag: string
  /** By tag value; a value without entry adds nothing. */
  readonly variants: Readonly<Record<string, Variant>>
}

/** What a tag value adds: members, or a union of its own. */
export type Variant = Members | UnionType

/** Told apart by the JSON type alone. */
export interface AlternateType<T = unknown> extends Typed<T> {
  readonly kind: 'alternate'
  readonly name: string
  /** A function, because definitions contain references to definitions. */
  readonly choices: () => readonly AnyType[]
}

/** A type that contains itself. */
export interface LazyType<T = unknown> extends Typed<T> {
  readonly kind: 'lazy'
  readonly target: () => ObjectType
}

export type ObjectType = StructType | UnionType
export type AnyType = BuiltinType | EnumType | ObjectType | ArrayType | AlternateType | LazyType

/** The TypeScript type of validated values. */
export type Infer<T> = T extends { readonly typed?: () => infer U } ? U : never

type Flat<T> = T extends object ? { [K in keyof T]: T[K] } : T
type RequiredNames<M extends Members> = { [K in keyof M]: M[K]['optional'] extends true ? never : K }[keyof M]

export type InferMembers<M extends Members> = Flat<
  { readonly [K in RequiredNames<M>]: Infer<M[K]['type']> } & {
    readonly [K in Exclude<keyof M, RequiredNames<M>>]?: Infer<M[K]['type']>
  }
>

type InferVariant<V> = V extends UnionType ? Infer<V> : V extends Members ? InferMembers<V> : unknown

type InferUnion<B extends Members, G extends keyof B, V extends Readonly<Record<string, Variant>>> = {
  [C in Infer<B[G]['type']> & string]: Flat<
    { readonly [K in G]: C } & InferMembers<Omit<B, G>> & (C extends keyof V ? InferVariant<V[C]> : unknown)
  >
}[Infer<B[G]['type']> & string]

const builtin = <T>(name: BuiltinType['name']): BuiltinType<T> => ({ kind: 'builtin', name })

export const str = builtin<string>('str')
export const bool = builtin<boolean>('bool')
export const int = builtin<number>('int')
/** Bytes. */
export const size = builtin<number>('size')
export const uint64 = builtin<number>('uint64')
export const uint32 = builtin<number>('uint32')
export const uint16 = builtin<number>('uint16')
export const uint8 = builtin<number>('uint8')
/** Any finite number, with or without fraction. */
export const number = builtin<number>('number')
export const any = builtin<JsonValue>('any')
/** Only as a choice of an alternate. */
export const nothing = builtin<null>('null')

export function enumOf<const V extends readonly string[]>(name: string, values: V): EnumType<V[number]> {
  return { kind: 'enum', name, values }
}

interface MemberOptions {
  readonly default?: string | number | boolean
  readonly extension?: boolean
}

export function required<T extends AnyType>(
  type: T,
  doc: string,
  more: MemberOptions = {},
): Member<T, false> {
  return { type, optional: false, doc, ...more }
}

export function optional<T extends AnyType>(type: T, doc: string, more: MemberOptions = {}): Member<T, true> {
  return { type, optional: true, doc, ...more }
}

export function struct<M extends Members>(name: string, members: M): StructType<InferMembers<M>> {
  return { kind: 'struct', name, members }
}

export function arrayOf<T extends AnyType>(element: T): ArrayType<readonly Infer<T>[]> {
  return { kind: 'array', element }
}

/**
 * @param base      members of every variant, in the order they are checked; holds the tag
 * @param variants  further members by tag value
 */
export function union<
  B extends Members,
  G extends keyof B & string,
  V extends Readonly<Record<string, Variant>>,
>(name: string, base: B, tag: G, variants: V): UnionType<InferUnion<B, G, V>> {
  return { kind: 'union', name, base, tag, variants }
}

export function isUnion(variant: Variant): variant is UnionType {
  return variant.kind === 'union'
}

export function alternate<T>(name: string, choices: () => readonly AnyType[]): AlternateType<T> {
  return { kind: 'alternate', name, choices }
}

export function lazy<T>(target: () => ObjectType): LazyType<T> {
  return { kind: 'lazy', target }
}

export interface Command<A = unknown, R = unknown> extends Typed<{ readonly takes: A; readonly gives: R }> {
  readonly doc: string
  readonly arguments: ObjectType
  /** Absent: the command returns nothing, `{}` on the wire. */
  readonly returns?: AnyType
  /** May be run with `exec-oob`: it never waits. */
  readonly oob: boolean
}

interface CommandParts<A extends ObjectType | undefined, R extends AnyType | undefined> {
  readonly doc: string
  readonly arguments?: A
  readonly returns?: R
  readonly oob?: boolean
}

const noArguments = struct('q_empty', {})
export type NoArguments = Infer<typeof noArguments>

type ArgumentOf<A> = A extends ObjectType ? Infer<A> : NoArguments
// biome-ignore lint/suspicious/noConfusingVoidType: a handler of such a command needs no return statement
type ReturnOf<R> = R extends AnyType ? Infer<R> : void

export function command<
  A extends ObjectType | undefined = undefined,
  R extends AnyType | undefined = undefined,
>(parts: CommandParts<A, R>): Command<ArgumentOf<A>, ReturnOf<R>> {
  const { doc, arguments: args = noArguments, returns, oob = false } = parts
  return { doc, arguments: args, oob, ...(returns === undefined ? {} : { returns }) }
}

export interface Event<D = unknown> extends Typed<D> {
  readonly doc: string
  readonly data: StructType
  /** Not in the reference daemon. */
  readonly extension: boolean
}

export function event<D extends StructType>(parts: {
  readonly doc: string
  readonly data: D
  readonly extension?: boolean
}): Event<Infer<D>> {
  return { doc: parts.doc, data: parts.data, extension: parts.extension ?? false }
}
