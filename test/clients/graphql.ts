/** GraphQL over a WebSocket: a subscription by graphql-ws, and its end when the caller is revoked. */
import { createServer, type Server } from 'node:http'
import { pause } from '../harness/wait.ts'
import { type Client, demand, type Entrance, listen } from './client.ts'
import { load } from './packages.ts'

interface WsPackage {
  readonly WebSocket: new (url: string, protocols: string[], options: object) => object
  readonly WebSocketServer: new (options: {
    server: Server
    path: string
  }) => {
    close(): void
  }
}

interface Subscriptions {
  iterate(request: { query: string }): AsyncIterableIterator<{ data: { ticks: number } }>
  dispose(): void
}

interface Sdl {
  buildSchema(text: string): { getSubscriptionType(): Fields; getQueryType(): Fields }
}

interface Fields {
  getFields(): Record<string, { subscribe?: unknown; resolve?: unknown }>
}

export function graphqlWs(): Client {
  const server = createServer()
  const ws = load<WsPackage>('ws')
  const schema = load<Sdl>('graphql').buildSchema(
    'type Query { a: Int } type Subscription { ticks: Int }',
  )
  schema.getSubscriptionType().getFields().ticks!.subscribe = async function* () {
    for (let ticks = 0; ; ticks++) {
      yield { ticks }
      await pause(20)
    }
  }
  const sockets = new ws.WebSocketServer({ server, path: '/graphql' })
  const { useServer } = load<{ useServer(options: object, server: object): void }>(
    'graphql-ws/use/ws',
  )
  useServer({ schema }, sockets)
  return {
    name: 'graphql',
    upstream: () => listen(server),
    route: {},
    run: walk,
    close: () => {
      sockets.close()
      server.close()
    },
  }
}

async function walk(entrance: Entrance): Promise<string> {
  const authorization = `Bearer ${await entrance.token('subscriber')}`
  const { WebSocket } = load<WsPackage>('ws')
  class WithToken extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols, { headers: { authorization } })
    }
  }
  const { createClient } = load<{ createClient(options: object): Subscriptions }>('graphql-ws')
  const url = `${entrance.origin.replace('http', 'ws')}/graphql`
  const client = createClient({ url, webSocketImpl: WithToken, retryAttempts: 0 })
  const subscription = client.iterate({ query: 'subscription { ticks }' })
  let end = ''
  let got = 0
  try {
    for await (const { data } of subscription) {
      demand(data.ticks === got, `tick ${data.ticks} came in place of ${got}`)
      if (++got === 5) void entrance.revoke('subscriber')
      demand(got < 1000, 'it goes on after its caller was revoked')
    }
  } catch (error) {
    if (error instanceof Error) throw error
    end = `${(error as { code: number }).code} ${(error as { reason: string }).reason}`.trim()
  } finally {
    client.dispose()
  }
  demand(got >= 5 && end.startsWith('1008'), `${got} ticks, then: ${end}`)
  return `subscribed and got its ticks in order; revoked: closed with ${end}`
}
