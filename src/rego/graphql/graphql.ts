/**
 * `graphql.*`, with the GraphQL reference implementation and OPA's trees (graphql-tree.ts) as results. A query comes
 * from a request, so its tokens are counted before it is parsed.
 */
import { createRequire } from 'node:module'
import type * as Library from 'graphql'
import type { DocumentNode, GraphQLSchema, TypeSystemDefinitionNode } from 'graphql'
import type { validateSDL } from 'graphql/validation/validate.js'
import type { BuiltinTable } from '../builtin.ts'
import { BuiltinError, refuseWork, text } from '../values/operand.ts'
import { RegoObject, type Value } from '../values/value.ts'
import { queryText, schemaText } from './graphql-text.ts'
import { queryTree, schemaTree } from './graphql-tree.ts'

const require = createRequire(import.meta.url)
/** Loaded only when a policy uses it, because it takes 80 ms of CPU and some megabytes per thread. */
const library = (): typeof Library => require('graphql') as typeof Library
const schemaErrors: typeof validateSDL = (document) =>
  (require('graphql/validation/validate.js') as { validateSDL: typeof validateSDL }).validateSDL(
    document,
  )

const maxLength = 1 << 18
/**
 * Limit for tokens of a query. Validation compares all fields with the same name in pairs, so its cost grows with the
 * square.
 */
const maxQueryTokens = 5000
const maxSchemaTokens = 100_000

/** @throws BuiltinError */
function read(source: string, maxTokens: number): DocumentNode {
  if (source.length > maxLength) refuseWork(`GraphQL of more than ${maxLength} characters`)
  // OPA's parser accepts an empty document.
  if (/^[\ufeff\t\n\r ,]*$/.test(source))
    return { kind: 'Document' as Library.Kind.DOCUMENT, definitions: [] }
  try {
    return library().parse(source, {
      noLocation: true,
      maxTokens,
      experimentalFragmentArguments: true,
    })
  } catch (error) {
    if (!(error instanceof library().GraphQLError)) throw error
    if (/more than [0-9]+ tokens/.test(error.message)) refuseWork(error.message)
    throw new BuiltinError(error.message)
  }
}

/** @throws BuiltinError */
function readQuery(value: Value): DocumentNode {
  const source = value instanceof RegoObject ? queryText(value) : text([value], 0)
  const document = read(source, maxQueryTokens)
  const isQuery = ({ kind }: { kind: string }): boolean =>
    kind === 'OperationDefinition' || kind === 'FragmentDefinition'
  if (!document.definitions.every(isQuery)) throw new BuiltinError('the document is not a query')
  return document
}

/** @throws BuiltinError */
function readSchema(value: Value): DocumentNode {
  const source = value instanceof RegoObject ? schemaText(value) : text([value], 0)
  const document = read(source, maxSchemaTokens)
  const isQuery = ({ kind }: { kind: string }): boolean =>
    kind === 'OperationDefinition' || kind === 'FragmentDefinition'
  if (document.definitions.some(isQuery)) throw new BuiltinError('the document is not a schema')
  return document
}

/** Turns an extension of an undefined type into its definition, as OPA's library does. */
function withDefinitions(document: DocumentNode): DocumentNode {
  const nameOf = (node: object): string => (node as { name?: { value: string } }).name?.value ?? ''
  const isType = (kind: string): boolean => /Type(?:Definition|Extension)$/.test(kind)
  const defined = new Set(
    document.definitions
      .filter(({ kind }) => isType(kind) && kind.endsWith('Definition'))
      .map(nameOf),
  )
  const definitions = document.definitions.map((node) => {
    if (!isType(node.kind) || defined.has(nameOf(node))) return node
    defined.add(nameOf(node))
    return {
      ...node,
      kind: node.kind.replace('Extension', 'Definition'),
    } as TypeSystemDefinitionNode
  })
  return { ...document, definitions }
}

const built = new Map<string, GraphQLSchema>()
/** Most cached schemas. A schema usually comes with the bundle and is built once. */
const maxBuilt = 8

/** @throws BuiltinError */
function schemaOf(value: Value, document: DocumentNode): GraphQLSchema {
  if (typeof value !== 'string') return buildSchema(document)
  const cached = built.get(value)
  if (cached !== undefined) return cached
  const schema = buildSchema(document)
  if (built.size >= maxBuilt) built.delete(built.keys().next().value!)
  built.set(value, schema)
  return schema
}

/** @throws BuiltinError */
function buildSchema(document: DocumentNode): GraphQLSchema {
  const complete = withDefinitions(document)
  const [first] = schemaErrors(complete)
  if (first !== undefined) throw new BuiltinError(first.message)
  const schema = library().buildASTSchema(complete, { assumeValidSDL: true })
  // OPA's library accepts a schema without a query type.
  const error = library()
    .validateSchema(schema)
    .find(({ message }) => !/^Query root type must/.test(message))
  if (error !== undefined) throw new BuiltinError(error.message)
  // Build the schema again: the first one would keep the error about the missing query type and report it later.
  return library().buildASTSchema(complete, { assumeValid: true })
}

/** @throws BuiltinError */
function check(schema: GraphQLSchema, query: DocumentNode): void {
  if (query.definitions.length === 0) return
  // The library refuses to validate against a schema without a query type.
  if (schema.getQueryType() == null) throw new BuiltinError('the schema has no query type')
  const [first] = library().validate(schema, query, undefined, { maxErrors: 1 })
  if (first !== undefined) throw new BuiltinError(first.message)
}

function parseBoth(query: Value, schema: Value): [RegoObject, RegoObject] {
  const [queryDocument, schemaDocument] = [readQuery(query), readSchema(schema)]
  check(schemaOf(schema, schemaDocument), queryDocument)
  return [queryTree(queryDocument), schemaTree(schemaDocument)]
}

/** Calls `what`. @returns Undefined if it throws a BuiltinError. */
function attempt<T>(what: () => T): T | undefined {
  try {
    return what()
  } catch (error) {
    if (error instanceof BuiltinError) return undefined
    throw error
  }
}

const calls: BuiltinTable = {
  'graphql.parse': { call: ([query, schema]) => parseBoth(query!, schema!) },
  'graphql.parse_and_verify': {
    call: ([query, schema]) => {
      const parsed = attempt(() => parseBoth(query!, schema!))
      return parsed === undefined ? [false, new RegoObject(), new RegoObject()] : [true, ...parsed]
    },
  },
  'graphql.is_valid': {
    call: ([query, schema]) => attempt(() => parseBoth(query!, schema!)) !== undefined,
  },
  'graphql.parse_query': { call: (args) => queryTree(readQuery(text(args, 0))) },
  'graphql.parse_schema': { call: (args) => schemaTree(readSchema(text(args, 0))) },
  'graphql.schema_is_valid': {
    call: ([schema]) => attempt(() => buildSchema(readSchema(schema!))) !== undefined,
  },
}

export const graphqlBuiltins: BuiltinTable = Object.fromEntries(
  Object.entries(calls).map(([name, builtin]) => [name, { ...builtin, load: library }]),
)
