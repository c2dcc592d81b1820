/**
 * For servers whose routes have no JSON schemas: Fastify then need not load its validator and its serializer, which take a
 * thread as long to load as Fastify itself.
 */
const refuse = (): never => {
  throw new Error('routes of this server have no schemas')
}

export const withoutSchemas = {
  schemaController: {
    compilersFactory: { buildValidator: () => refuse, buildSerializer: () => refuse },
  },
} as const
