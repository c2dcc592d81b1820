/**
 * Converts GraphQL documents to trees of Rego values with the structure that OPA's parser uses (vektah/gqlparser).
 * All texts and flags are included; empty lists, missing parts, positions and comments are left out.
 */
import type {
  ArgumentNode,
  ConstDirectiveNode,
  DefinitionNode,
  DirectiveNode,
  DocumentNode,
  FieldDefinitionNode,
  InputValueDefinitionNode,
  SelectionNode,
  SelectionSetNode,
  TypeNode,
  ValueNode,
  VariableDefinitionNode,
} from 'graphql'
import { BuiltinError } from '../values/operand.ts'
import { RegoNumber, RegoObject, type Value } from '../values/value.ts'

type Parts = Readonly<Record<string, Value | undefined>>

/** Returns an object without missing and empty parts. */
function tree(parts: Parts): RegoObject {
  const out = new RegoObject()
  for (const [name, value] of Object.entries(parts)) {
    const isEmpty = Array.isArray(value) && value.length === 0
    if (value !== undefined && !isEmpty) out.set(name, value)
  }
  return out
}

function list<T>(nodes: readonly T[] | undefined, each: (node: T) => Value): Value {
  return (nodes ?? []).map(each)
}

export const valueKinds = [
  'Variable', 'IntValue', 'FloatValue', 'StringValue', 'BlockValue', 'BooleanValue', 'NullValue', 'EnumValue',
  'ListValue', 'ObjectValue',
] // biome-ignore format: a list

function valueTree(node: ValueNode): Value {
  let [kind, raw] = [node.kind as string, '']
  let children: Value = []
  switch (node.kind) {
    case 'Variable':
      raw = node.name.value
      break
    case 'StringValue':
      kind = node.block === true ? 'BlockValue' : kind
      raw = node.value
      break
    case 'BooleanValue':
      raw = String(node.value)
      break
    case 'NullValue':
      raw = 'null'
      break
    case 'ListValue':
      children = list(node.values, (value) => tree({ Name: '', Value: valueTree(value) }))
      break
    case 'ObjectValue':
      children = list(node.fields, ({ name, value }) =>
        tree({ Name: name.value, Value: valueTree(value) }),
      )
      break
    default:
      raw = node.value
  }
  return tree({
    Raw: raw,
    Children: children,
    Kind: new RegoNumber(valueKinds.indexOf(kind)),
    ExpectedTypeHasDefault: false,
  })
}

function typeTree(node: TypeNode, nonNull = false): Value {
  if (node.kind === 'NonNullType') return typeTree(node.type, true)
  if (node.kind === 'NamedType') return tree({ NamedType: node.name.value, NonNull: nonNull })
  return tree({ NamedType: '', Elem: typeTree(node.type), NonNull: nonNull })
}

function argumentTree({ name, value }: ArgumentNode): Value {
  return tree({ Name: name.value, Value: valueTree(value) })
}

function directiveTree({ name, arguments: args }: DirectiveNode | ConstDirectiveNode): Value {
  return tree({
    Name: name.value,
    Arguments: list(args as readonly ArgumentNode[], argumentTree),
    Location: '',
  })
}

function directives(nodes: readonly (DirectiveNode | ConstDirectiveNode)[] | undefined): Value {
  return list(nodes, directiveTree)
}

/** @throws BuiltinError for an empty selection set, which OPA's parser refuses. */
function selections(set: SelectionSetNode | undefined): Value {
  if (set?.selections.length === 0) throw new BuiltinError('expected at least one definition')
  return list(set?.selections, selectionTree)
}

function selectionTree(node: SelectionNode): Value {
  if (node.kind === 'FragmentSpread') {
    return tree({ Name: node.name.value, Directives: directives(node.directives) })
  }
  const inner = selections(node.selectionSet)
  if (node.kind === 'InlineFragment') {
    return tree({
      TypeCondition: node.typeCondition?.name.value ?? '',
      Directives: directives(node.directives),
      SelectionSet: inner,
    })
  }
  return tree({
    Alias: (node.alias ?? node.name).value,
    Name: node.name.value,
    Arguments: list(node.arguments, argumentTree),
    Directives: directives(node.directives),
    SelectionSet: inner,
  })
}

function variableTree(node: VariableDefinitionNode): Value {
  return tree({
    Variable: node.variable.name.value,
    Type: typeTree(node.type),
    DefaultValue: node.defaultValue && valueTree(node.defaultValue),
    Directives: directives(node.directives),
    Used: false,
  })
}

export function queryTree({ definitions }: DocumentNode): RegoObject {
  const [operations, fragments]: [Value[], Value[]] = [[], []]
  for (const node of definitions) {
    if (node.kind === 'OperationDefinition') {
      operations.push(
        tree({
          Operation: node.operation,
          Name: node.name?.value ?? '',
          VariableDefinitions: list(node.variableDefinitions, variableTree),
          Directives: directives(node.directives),
          SelectionSet: selections(node.selectionSet),
        }),
      )
    } else if (node.kind === 'FragmentDefinition') {
      fragments.push(
        tree({
          Name: node.name.value,
          VariableDefinition: list(node.variableDefinitions, variableTree),
          TypeCondition: node.typeCondition.name.value,
          Directives: directives(node.directives),
          SelectionSet: selections(node.selectionSet),
        }),
      )
    }
  }
  return tree({ Operations: operations, Fragments: fragments })
}

function argumentDefinitionTree(node: InputValueDefinitionNode): Value {
  return tree({
    Description: node.description?.value ?? '',
    Name: node.name.value,
    DefaultValue: node.defaultValue && valueTree(node.defaultValue),
    Type: typeTree(node.type),
    Directives: directives(node.directives),
  })
}

function fieldTree(node: FieldDefinitionNode | InputValueDefinitionNode): Value {
  if (node.kind === 'InputValueDefinition') return argumentDefinitionTree(node)
  return tree({
    Description: node.description?.value ?? '',
    Name: node.name.value,
    Arguments: list(node.arguments, argumentDefinitionTree),
    Type: typeTree(node.type),
    Directives: directives(node.directives),
  })
}

/** Names of the kinds of definitions: in graphql-js -> in OPA. */
export const typeKinds: Readonly<Record<string, string>> = {
  ScalarType: 'SCALAR',
  ObjectType: 'OBJECT',
  InterfaceType: 'INTERFACE',
  UnionType: 'UNION',
  EnumType: 'ENUM',
  InputObjectType: 'INPUT_OBJECT',
}

export function schemaTree({ definitions }: DocumentNode): RegoObject {
  const parts: Record<string, Value[]> = {
    Schema: [],
    SchemaExtension: [],
    Directives: [],
    Definitions: [],
    Extensions: [],
  }
  for (const node of definitions) {
    const [part, value] = definitionTree(node)
    parts[part]!.push(value)
  }
  return tree(parts)
}

function definitionTree(node: DefinitionNode): [part: string, value: Value] {
  switch (node.kind) {
    case 'SchemaDefinition':
    case 'SchemaExtension':
      return [
        node.kind === 'SchemaDefinition' ? 'Schema' : 'SchemaExtension',
        tree({
          Description: ('description' in node ? node.description?.value : undefined) ?? '',
          Directives: directives(node.directives),
          OperationTypes: list(node.operationTypes, ({ operation, type }) =>
            tree({ Operation: operation, Type: type.name.value }),
          ),
        }),
      ]
    case 'DirectiveDefinition':
      return [
        'Directives',
        tree({
          Description: node.description?.value ?? '',
          Name: node.name.value,
          Arguments: list(node.arguments, argumentDefinitionTree),
          Locations: list(node.locations, ({ value }) => value),
          IsRepeatable: node.repeatable,
        }),
      ]
    default: {
      const named = node as Extract<DefinitionNode, { readonly fields?: unknown }>
      const [, kind, part] = /^(.*)(Definition|Extension)$/.exec(node.kind)!
      return [
        `${part}s`,
        tree({
          Kind: typeKinds[kind!],
          Description: ('description' in named ? named.description?.value : undefined) ?? '',
          Name: named.name.value,
          Directives: directives(named.directives),
          Interfaces: 'interfaces' in node ? list(node.interfaces, ({ name }) => name.value) : [],
          Fields: list(named.fields as readonly FieldDefinitionNode[], fieldTree),
          Types: 'types' in node ? list(node.types, ({ name }) => name.value) : [],
          EnumValues:
            'values' in node
              ? list(
                  node.values as readonly Extract<typeof node.values, readonly unknown[]>[number][],
                  (value) =>
                    tree({
                      Description: value.description?.value ?? '',
                      Name: value.name.value,
                      Directives: directives(value.directives),
                    }),
                )
              : [],
          BuiltIn: false,
        }),
      ]
    }
  }
}
