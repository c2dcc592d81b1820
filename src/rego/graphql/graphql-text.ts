/**
 * Writes a tree of graphql-tree.ts as GraphQL text, so that a document that a policy changed is parsed again by the
 * same parser. Names come from the data of the policy; a text that is not a valid name is refused.
 */

import { BuiltinError } from '../values/operand.ts'
import { isArray, RegoNumber, RegoObject, type Value } from '../values/value.ts'
import { typeKinds, valueKinds } from './graphql-tree.ts'

function text(node: RegoObject, field: string): string {
  const value = node.get(field) ?? ''
  if (typeof value !== 'string') throw new BuiltinError(`${field} is not a string`)
  return value
}

function name(node: RegoObject, field: string): string {
  return checkedName(text(node, field))
}

function checkedName(value: Value): string {
  if (typeof value !== 'string' || !/^[_A-Za-z][_0-9A-Za-z]*$/.test(value)) {
    throw new BuiltinError('the text is not a GraphQL name')
  }
  return value
}

function nodes(node: RegoObject, field: string): readonly RegoObject[] {
  const value = node.get(field) ?? []
  if (!isArray(value) || !value.every((each) => each instanceof RegoObject)) {
    throw new BuiltinError(`${field} is not an array of objects`)
  }
  return value as readonly RegoObject[]
}

function node(parent: RegoObject, field: string): RegoObject | undefined {
  const value = parent.get(field)
  if (value === undefined || value === null) return undefined
  if (!(value instanceof RegoObject)) throw new BuiltinError(`${field} is not an object`)
  return value
}

function names(parent: RegoObject, field: string): readonly string[] {
  const value = parent.get(field) ?? []
  if (!isArray(value)) throw new BuiltinError(`${field} is not an array`)
  return value.map(checkedName)
}

function needed(parent: RegoObject, field: string): RegoObject {
  const found = node(parent, field)
  if (found === undefined) throw new BuiltinError(`${field} is missing`)
  return found
}

function within(open: string, parts: readonly string[], close: string): string {
  return parts.length === 0 ? '' : `${open}${parts.join(' ')}${close}`
}

function valueText(value: RegoObject): string {
  const kind = value.get('Kind')
  const raw = text(value, 'Raw')
  const children = nodes(value, 'Children')
  switch (kind instanceof RegoNumber ? valueKinds[Number(kind.text)] : undefined) {
    case 'Variable':
      return `$${checkedName(raw)}`
    case 'StringValue':
    case 'BlockValue':
      return JSON.stringify(raw)
    case 'IntValue':
    case 'FloatValue':
      if (!/^-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/.test(raw)) throw new BuiltinError('number')
      return raw
    case 'ListValue':
      return `[${children.map((child) => valueText(needed(child, 'Value'))).join(' ')}]`
    case 'ObjectValue':
      return `{${children.map((child) => `${name(child, 'Name')}:${valueText(needed(child, 'Value'))}`).join(' ')}}`
    case undefined:
      throw new BuiltinError('Kind is unknown')
    default:
      return checkedName(raw)
  }
}

function typeText(type: RegoObject): string {
  const element = node(type, 'Elem')
  const inner = element === undefined ? name(type, 'NamedType') : `[${typeText(element)}]`
  return type.get('NonNull') === true ? `${inner}!` : inner
}

function argumentsText(parent: RegoObject): string {
  const parts = nodes(parent, 'Arguments').map(
    (argument) => `${name(argument, 'Name')}:${valueText(needed(argument, 'Value'))}`,
  )
  return within('(', parts, ')')
}

function directivesText(parent: RegoObject): string {
  return nodes(parent, 'Directives')
    .map((directive) => ` @${name(directive, 'Name')}${argumentsText(directive)}`)
    .join('')
}

function defaultText(parent: RegoObject): string {
  const value = node(parent, 'DefaultValue')
  return value === undefined ? '' : `=${valueText(value)}`
}

function variablesText(parent: RegoObject, field: string): string {
  const parts = nodes(parent, field).map(
    (variable) =>
      `$${name(variable, 'Variable')}:${typeText(needed(variable, 'Type'))}${defaultText(variable)}${directivesText(variable)}`,
  )
  return within('(', parts, ')')
}

function selectionsText(parent: RegoObject): string {
  const parts = nodes(parent, 'SelectionSet').map((selection) => {
    const rest = `${directivesText(selection)}${selectionsText(selection)}`
    if (selection.has('TypeCondition')) {
      const type = text(selection, 'TypeCondition')
      return `...${type === '' ? '' : `on ${checkedName(type)}`}${rest}`
    }
    if (!selection.has('Alias')) return `...${name(selection, 'Name')}${rest}`
    return `${name(selection, 'Alias')}:${name(selection, 'Name')}${argumentsText(selection)}${rest}`
  })
  return within('{', parts, '}')
}

export function queryText(query: RegoObject): string {
  const operations = nodes(query, 'Operations').map((operation) => {
    const given = text(operation, 'Name')
    const called = given === '' ? '' : ` ${checkedName(given)}`
    return `${name(operation, 'Operation')}${called}${variablesText(operation, 'VariableDefinitions')}${directivesText(operation)}${selectionsText(operation)}`
  })
  const fragments = nodes(query, 'Fragments').map(
    (fragment) =>
      `fragment ${name(fragment, 'Name')}${variablesText(fragment, 'VariableDefinition')} on ${name(fragment, 'TypeCondition')}${directivesText(fragment)}${selectionsText(fragment)}`,
  )
  return [...operations, ...fragments].join('\n')
}

function described(parent: RegoObject): string {
  const description = text(parent, 'Description')
  return description === '' ? '' : `${JSON.stringify(description)} `
}

function argumentDefinitionsText(parent: RegoObject): string {
  return within('(', nodes(parent, 'Arguments').map(inputText), ')')
}

function inputText(input: RegoObject): string {
  return `${described(input)}${name(input, 'Name')}:${typeText(needed(input, 'Type'))}${defaultText(input)}${directivesText(input)}`
}

function fieldText(field: RegoObject): string {
  return `${described(field)}${name(field, 'Name')}${argumentDefinitionsText(field)}:${typeText(needed(field, 'Type'))}${defaultText(field)}${directivesText(field)}`
}

const keywords: Readonly<Record<string, string>> = {
  ScalarType: 'scalar',
  ObjectType: 'type',
  InterfaceType: 'interface',
  UnionType: 'union',
  EnumType: 'enum',
  InputObjectType: 'input',
}

function typeDefinitionText(definition: RegoObject): string {
  const kind = Object.keys(typeKinds).find((each) => typeKinds[each] === text(definition, 'Kind'))
  if (kind === undefined) throw new BuiltinError('Kind is unknown')
  const values = nodes(definition, 'EnumValues').map(
    (value) => `${described(value)}${name(value, 'Name')}${directivesText(value)}`,
  )
  const interfaces = names(definition, 'Interfaces').join('&')
  const types = names(definition, 'Types').join('|')
  return [
    `${keywords[kind]} ${name(definition, 'Name')}`,
    interfaces === '' ? '' : ` implements ${interfaces}`,
    directivesText(definition),
    within('{', nodes(definition, 'Fields').map(fieldText), '}'),
    types === '' ? '' : `=${types}`,
    within('{', values, '}'),
  ].join('')
}

function rootsText(schema: RegoObject): string {
  const parts = nodes(schema, 'OperationTypes').map(
    (root) => `${name(root, 'Operation')}:${name(root, 'Type')}`,
  )
  return `schema${directivesText(schema)}${within('{', parts, '}')}`
}

export function schemaText(schema: RegoObject): string {
  return [
    ...nodes(schema, 'Schema').map((root) => described(root) + rootsText(root)),
    ...nodes(schema, 'SchemaExtension').map((root) => `extend ${rootsText(root)}`),
    ...nodes(schema, 'Directives').map(
      (directive) =>
        `${described(directive)}directive @${name(directive, 'Name')}${argumentDefinitionsText(directive)}${directive.get('IsRepeatable') === true ? ' repeatable' : ''} on ${names(directive, 'Locations').join('|')}`,
    ),
    ...nodes(schema, 'Definitions').map((each) => described(each) + typeDefinitionText(each)),
    ...nodes(schema, 'Extensions').map((each) => `extend ${typeDefinitionText(each)}`),
  ].join('\n')
}
