/**
 * Policy corpus: policies of the kinds that are published (for Envoy, Istio, an API gateway, Trino, a developer portal, Kafka, a
 * registry, Kubernetes; roles, attributes, relations, entitlements, scopes), one folder each in test/policies. Some are in the
 * syntax before OPA 1.0, one has several modules. Each has its data and a generator of requests that come near its edges: what
 * is drawn is mostly right, with a mistake now and then, so that at least one in seven is allowed and one in seven denied.
 */
import { createHmac } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Chance, type ComparedPolicy, type Comparison, comparePolicy } from './compared.ts'

interface CorpusPolicy extends Omit<ComparedPolicy, 'files'> {}

const secret = 'a secret of thirty-two bytes, yes'
const json = (value: unknown): string => JSON.stringify(value)

/** Mostly one of the first list, now and then one of the second. */
function mostly<T>(chance: Chance, usual: readonly T[], odd: readonly T[], times = 8): T {
  return chance.of(chance.once(times) ? odd : usual)
}

function token(chance: Chance): string {
  const part = (value: unknown): string => Buffer.from(json(value)).toString('base64url')
  const claims = {
    role: mostly(chance, ['guest', 'admin', 'admin'], ['Admin', '', 7]),
    sub: Buffer.from(chance.of(['alice', 'bob', 'joe'])).toString('base64url'),
    exp: mostly(chance, [1767225600 + 60], [1767225600 - 60, 0]),
  }
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  const key = mostly(chance, [secret], ['another'])
  return `${signed}.${createHmac('sha256', key).update(signed).digest('base64url')}`
}

const users = ['alice', 'bob', 'carol', 'dave', '']

function trinoAction(chance: Chance): object {
  const table = {
    catalogName: chance.of(['lake', 'lake', 'tpch', 'system']),
    schemaName: chance.of(['sales', 'sales_eu', 'private', 'tiny']),
    tableName: chance.of(['orders', 'customers', 'secrets']),
    columns: chance.some(['id', 'name', 'email', 'salary'], 3),
  }
  const operation = chance.of([
    'ExecuteQuery',
    'AccessCatalog',
    'ShowTables',
    'SelectFromColumns',
    'SelectFromColumns',
    'SelectFromColumns',
    'InsertIntoTable',
    'DeleteFromTable',
    'ImpersonateUser',
    'DropTable',
  ])
  switch (operation) {
    case 'ExecuteQuery':
    case 'DropTable':
      return { operation }
    case 'AccessCatalog':
      return { operation, resource: { catalog: { name: table.catalogName } } }
    case 'ShowTables':
      return {
        operation,
        resource: { schema: { catalogName: table.catalogName, schemaName: table.schemaName } },
      }
    case 'ImpersonateUser':
      return { operation, resource: { user: { user: chance.of(['alice', 'svc-etl', 'root']) } } }
    default:
      return { operation, resource: { table } }
  }
}

function pod(chance: Chance): object {
  const container = (): object => ({
    name: chance.of(['app', 'side', 'é']),
    image: mostly(
      chance,
      ['registry.example/app:1.2', 'registry.example/team/side:3'],
      ['docker.io/app:1', 'registry.example/app:latest', '', 7],
      12,
    ),
    ...(chance.once(15)
      ? {}
      : {
          resources: {
            limits: {
              memory: mostly(
                chance,
                ['128Mi', '1Gi', '512MB', '1.5Gi', '4200MB', '4Gi'],
                ['5Gi', 'x', '-1'],
                12,
              ),
            },
          },
        }),
    ...(chance.once(8) ? { securityContext: { privileged: chance.of([true, false]) } } : {}),
  })
  return {
    request: {
      ...(chance.once(20) ? {} : { uid: 'u' }),
      kind: { kind: mostly(chance, ['Pod'], ['Deployment', 'pod'], 10) },
      operation: chance.of(['CREATE', 'UPDATE']),
      namespace: chance.of(['default', 'default', 'kube-system', 'team']),
      object: {
        metadata: { labels: chance.once(8) ? {} : { team: 'a' } },
        spec: {
          containers: Array.from({ length: 1 + chance.number(2) }, container),
          ...(chance.once(4) ? { initContainers: [container()] } : {}),
        },
      },
    },
  }
}

const operations = [
  { method: 'GET', path: '^/users/[^/]+$', scopes: ['users:read'] },
  {
    method: 'PUT',
    path: '^/users/[^/]+/profile$',
    scopes: ['users:read', 'users:write'],
    owner: 1,
  },
  { method: 'GET', path: '^/reports/[0-9]{4}-[0-9]{2}$', scopes: [] },
]

export const corpus: Readonly<Record<string, CorpusPolicy>> = {
  envoy: {
    entrypoint: 'envoy/authz/allow',
    data: { secret },
    make: (chance) => ({
      method: mostly(chance, ['GET', 'POST'], ['PUT']),
      path: mostly(chance, ['/people/1', '/people/ab'], ['/people', '/people/1/2', '/people/1?x=/']),
      headers: chance.once(12) ? [] : [['authorization', `${mostly(chance, ['Bearer', 'bearer'], ['Basic', ''])} ${token(chance)}`]],
      body: json(mostly<unknown>(chance, [{ firstname: 'Joe' }, { firstname: 'ALICE' }, { firstname: 'bob' }], [{}, { firstname: 7 }, { firstname: '' }])),
    }),
  },
  'envoy-object': {
    entrypoint: 'envoy/authz/allow',
    v0: true,
    data: {
      keys: { k1: { name: 'alice', teams: ['admins', 'dev'] }, k2: { name: 'bob', teams: ['dev'] }, k3: { name: 'mallory', teams: [] } },
      blocked: ['mallory'],
    },
    make: (chance) => ({
      path: chance.of(['/admin/x', '/orders', '/admin', '/']),
      headers: chance.once(8) ? [] : [['x-api-key', mostly(chance, ['k1', 'k2', 'k3'], ['k4', '', 'K1'])]],
    }),
  },
  istio: {
    entrypoint: 'istio/authz/allow',
    v0: true,
    data: {
      user_roles: { alice: ['guest'], bob: ['admin', 'guest'] },
      role_permissions: { guest: [{ method: 'GET', path: '/productpage' }], admin: [{ method: 'GET', path: '/api/v1/products' }, { method: 'DELETE', path: '/api/v1/products' }] },
    },
    make: (chance) => {
      const name = mostly(chance, ['alice', 'bob'], ['carol', '', 'bob:x'])
      const credentials = Buffer.from(`${name}:password`).toString('base64')
      return {
        method: mostly(chance, ['GET', 'GET', 'DELETE'], ['POST']),
        path: mostly(chance, ['/productpage', '/api/v1/products', '/health'], ['/productpage/', '/health/x', '/']),
        headers: chance.once(10) ? [] : [['authorization', mostly(chance, [`Basic ${credentials}`], ['Basic', 'Basic !!', credentials])]],
      }
    },
  },
  apisix: {
    entrypoint: 'example/decision',
    v0: true,
    data: { consumers: { jack: { plan: 'free' }, rose: { plan: 'paid' } } },
    make: (chance) => ({
      method: mostly(chance, ['GET', 'HEAD'], ['POST', 'DELETE'], 4),
      path: `/${chance.some(['a', 'b', 'get'], 4).join('/')}${chance.of(['', '?test=abcd', '?test=1&test=abcd', '?test=Abcd', '?x=1'])}`,
      headers: [
        ...(chance.once(3) ? [['user-agent', chance.of(['curl/8.0', 'wget/1', 'Mozilla/5.0', 'libcurl/1'])] as const] : []),
        ...(chance.once(2) ? [['x-consumer', chance.of(['jack', 'rose', 'unknown'])] as const] : []),
      ],
    }),
  },
  trino: {
    entrypoint: 'trino/decision',
    data: {
      catalogs: [{ user: 'root', allow: 'all' }, { group: 'analysts?', catalog: 'lake|tpch', allow: 'read-only' }, { group: 'etl', catalog: 'lake', allow: 'all' }, { catalog: 'system', allow: 'none' }],
      schemas: [{ user: 'root', owner: true }, { group: 'etl', schema: 'sales.*', owner: true }, { owner: false }],
      tables: [
        { user: 'root', privileges: ['SELECT', 'INSERT', 'DELETE'] },
        { group: 'etl', schema: 'sales(_eu)?', privileges: ['SELECT', 'INSERT'] },
        { group: 'analyst', schema: 'sales.*', table: 'customers', privileges: ['SELECT'], filter: 'region = 1', columns: [{ name: 'email', mask: 'hash(email)' }, { name: 'salary', allow: false }] },
        { catalog: 'tpch|lake', schema: 'tiny|sales', privileges: ['SELECT'], filter: 'false' },
        { privileges: [] },
      ],
      impersonation: [{ original_user: 'svc-.*', new_user: '[a-z]+', allow: true }, { original_user: 'root', new_user: '.*', allow: true }],
    },
    make: (chance) => ({
      body: json({
        context: { identity: { user: mostly(chance, ['alice', 'root', 'svc-etl'], ['']), groups: chance.some(['analyst', 'analysts', 'etl', 'other'], 2) } },
        action: trinoAction(chance),
      }),
    }),
  },
  backstage: {
    entrypoint: 'portal/rbac/decision',
    data: { restricted: ['policy.entity.read', 'scaffolder.task.read'] },
    make: (chance) => ({
      principal: { claims: { ent: chance.once(6) ? [] : chance.some(['group:default/admins', 'user:default/a', 'group:default/dev', 'group:default/qa'], 2) } },
      body: json({
        permission: {
          name: chance.of(['catalog.entity.read', 'catalog.entity.delete', 'policy.entity.read', 'scaffolder.task.create', 'search.read']),
          attributes: chance.once(12) ? {} : { action: chance.of(['read', 'update', 'delete', 'create']) },
          ...(chance.once(4) ? {} : { resourceType: 'catalog-entity' }),
        },
      }),
    }),
  },
  kafka: {
    entrypoint: 'kafka/authz/allow',
    data: {
      topics: { 'credit-scores': { tags: ['pii'], owners: ['billing'] }, clicks: { tags: [], owners: ['web', 'billing'] } },
      allowlist: { pii: ['pii_consumer', 'billing'] },
    },
    make: (chance) => ({
      body: json({
        action: {
          ...(chance.once(15) ? {} : { operation: chance.of(['READ', 'WRITE', 'CREATE', 'DESCRIBE']) }),
          resourcePattern: { name: mostly(chance, ['credit-scores', 'clicks', 'new.topic'], ['Clicks', 'a..b', '']), resourceType: mostly(chance, ['TOPIC'], ['CLUSTER']) },
        },
        requestContext: { principal: { name: mostly(chance, ['CN=billing.prod,OU=finance', 'CN=web, OU=platform', 'CN=pii_consumer', 'CN%3Dweb%2COU%3Dplatform'], ['', 'CN', 'OU=platform', 'CN=a=b']) } },
      }),
    }),
  },
  npm: {
    entrypoint: 'registry/npm/decision',
    data: {
      packages: { 'left-pad': { versions: ['1.0.0', '1.3.0'], maintainers: ['alice'] }, '@acme/core': { private: true, versions: ['2.0.0-rc.1', '1.9.9'] }, '@acme/open': { versions: [] } },
      teams: { '@acme': { owner: 'carol', members: ['bob', 'carol'] } },
      reserved: ['@acme/internal-*', 'node*'],
    },
    make: (chance) => ({
      method: chance.of(['GET', 'PUT', 'PUT', 'PUT', 'DELETE']),
      path: chance.of(['/left-pad', '/@acme/core', '/@acme/core', '/@acme/open', '/@acme/internal-x', '/@acme/new', '/nodemon', '/@acme']),
      ...(chance.once(10) ? {} : { principal: { subject: chance.of(users) } }),
      body: json(chance.once(12) ? {} : { version: mostly<unknown>(chance, ['1.3.1', '2.0.0', '1.10.0', '2.0.0-rc.1', '2.0.0-rc.2'], ['1.3', 'v2.0.0', '', 2]) }),
    }),
  },
  admission: {
    entrypoint: 'kubernetes/admission/decision',
    v0: true,
    data: { registries: ['registry.example/'], exempt: ['kube-system'] },
    make: (chance) => ({ method: 'POST', body: json(pod(chance)) }),
  },
  labels: {
    entrypoint: 'requiredlabels/decision',
    v0: true,
    data: { parameters: { labels: [{ key: 'team', allowedRegex: '^[a-z]+$' }, { key: 'cost-center', allowedRegex: '' }, { key: 'tier', allowedRegex: '^(gold|silver)$' }] } },
    make: (chance) => ({
      body: json({
        metadata: {
          labels: {
            ...(chance.once(6) ? {} : { team: mostly(chance, ['web', 'ops'], ['Web', '', 'a b']) }),
            ...(chance.once(6) ? {} : { 'cost-center': chance.of(['1', '', 'é']) }),
            ...(chance.once(6) ? {} : { tier: mostly(chance, ['gold', 'silver'], ['bronze', 'goldish']) }),
            ...(chance.once(2) ? { other: 'x' } : {}),
          },
        },
      }),
    }),
  },
  rbac: {
    entrypoint: 'app/rbac/allow',
    data: {
      bindings: { alice: ['editor'], bob: ['approver', 'requester'], carol: ['superuser'], dave: ['loop'] },
      group_bindings: { staff: ['viewer'], finance: ['approver'] },
      contains: { editor: ['viewer', 'requester'], approver: ['viewer'], superuser: ['editor', 'approver'], loop: ['pool'], pool: ['loop', 'viewer'], viewer: [], requester: [] },
      grants: { viewer: [{ kinds: ['orders', 'invoices'], verbs: ['read'] }], editor: [{ kinds: ['orders'], verbs: ['create', 'update', 'delete'] }], approver: [{ kinds: ['invoices'], verbs: ['update'] }], requester: [{ kinds: ['invoices'], verbs: ['create'] }] },
      exclusive: [['approver', 'requester']],
    },
    make: (chance) => ({
      method: chance.of(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']),
      path: mostly(chance, ['/orders/1', '/invoices', '/orders'], ['/', '/other', '/Orders']),
      principal: { subject: chance.of(users), claims: { groups: chance.some(['staff', 'finance', 'none'], 2), acr: chance.of(['1', '2']) } },
    }),
  },
  abac: {
    entrypoint: 'app/abac/decision',
    data: {
      zone: 'Europe/Berlin',
      networks: { eu: ['10.0.0.0/8', '2001:db8::/32'], us: ['192.0.2.0/24'] },
      documents: { d1: { level: 'public', region: 'eu', department: 'hr' }, d2: { level: 'internal', region: 'eu', department: 'hr' }, d3: { level: 'secret', region: 'us', department: 'rd' } },
    },
    make: (chance) => ({
      method: chance.of(['GET', 'GET', 'POST']),
      path: `/docs/${mostly(chance, ['d1', 'd2', 'd2', 'd3'], ['d4', 'D2', ''])}`,
      address: mostly(chance, ['10.1.2.3', '10.255.255.255', '192.0.2.9', '2001:db8::1'], ['11.0.0.1', '192.0.3.0']),
      time: chance.of(['2026-03-30T07:00:00.000Z', '2026-03-30T05:59:59.999Z', '2026-03-30T06:00:00.000Z', '2026-10-26T16:59:59.999Z', '2026-10-26T17:00:00.000Z', '2026-08-01T10:00:00.000Z']),
      principal: { claims: { clearance: mostly(chance, ['internal', 'secret', 'public'], ['top', '']), department: chance.of(['hr', 'hr', 'rd']), on_call: chance.of<unknown>([true, true, false, 'true']) } },
    }),
  },
  rebac: {
    entrypoint: 'app/rebac/decision',
    data: {
      tuples: [
        ['user:alice', 'member', 'group:dev'], ['group:dev', 'member', 'group:staff'], ['group:staff', 'member', 'group:all'], ['group:all', 'member', 'group:staff'], ['user:bob', 'member', 'group:all'],
        ['folder:root', 'parent', 'folder:plans'], ['folder:plans', 'parent', 'doc:p1'], ['folder:root', 'parent', 'doc:readme'], ['folder:loop', 'parent', 'folder:loop'],
        ['group:staff', 'viewer', 'folder:root'], ['group:dev', 'editor', 'folder:plans'], ['user:carol', 'owner', 'folder:root'], ['user:bob', 'banned', 'folder:plans'], ['user:dave', 'viewer', 'folder:loop'],
      ].map(([subject, relation, object]) => ({ subject, relation, object })),
    },
    make: (chance) => ({
      method: mostly(chance, ['GET', 'PUT', 'DELETE'], ['POST'], 15),
      path: mostly(chance, ['/docs/p1', '/docs/readme', '/folders/plans', '/folders/root', '/folders/loop'], ['/docs', '/docs/none', '/']),
      principal: { subject: chance.of(users) },
    }),
  },
  entitlements: {
    entrypoint: 'app/entitlements/decision',
    data: {
      plans: { basic: { features: ['search'], seats: 5, max_bytes: 50 }, pro: { features: ['search', 'export'], seats: 50 } },
      addons: { reports: ['report', 'export'] },
      customers: {
        acme: { plan: 'pro', addons: [], region: 'any', trials: {} },
        beta: { plan: 'basic', addons: ['reports'], region: 'eu', trials: { sso: '2026-06-01T00:00:00Z' } },
        gone: { plan: 'pro', addons: [], region: 'any', state: 'suspended', trials: {} },
      },
    },
    make: (chance) => ({
      path: `/x${chance.of(['', '', '?seats=5', '?seats=50', '?seats=51', '?seats=x', '?seats='])}`,
      time: chance.of(['2026-05-31T23:59:59.999Z', '2026-06-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z']),
      labels: { feature: mostly(chance, ['search', 'export', 'report', 'sso'], ['', 'none']), region: chance.of(['eu', 'us']) },
      principal: { tenant: mostly(chance, ['acme', 'beta', 'gone'], ['none']) },
      ...(chance.once(3) ? { body: json({ a: 'x'.repeat(chance.of([10, 100, 2000])) }) } : {}),
    }),
  },
  scopes: {
    entrypoint: 'api/scopes/allow',
    data: { operations },
    make: (chance) => ({
      method: chance.of(['GET', 'PUT', 'PUT']),
      path: chance.of(['/users/alice', '/users/alice/profile', '/users/bob/profile', '/users/alice/profile?x=1', '/reports/2026-01', '/reports/2026-1', '/users/']),
      principal: {
        subject: chance.of(['alice', 'alice', 'bob']),
        scopes: chance.some(['users:read', 'users:write', 'users:write', 'admin'], 4),
        claims: chance.once(2) ? {} : { scope: chance.of(['users:read users:write', 'users:read', '', ' users:read', 'admin  users:write']) },
      },
    }),
  },
} // biome-ignore format: tables

/** @throws Error of opa */
export function compareCorpus(name: string, seed: number, count: number): Promise<Comparison> {
  const folder = join('test/policies', name)
  const files = readdirSync(folder).map((file) => join(folder, file))
  return comparePolicy({ files, ...corpus[name]! }, seed, count)
}

/** The folders of policies that are there. */
export function corpusFolders(): string[] {
  return readdirSync('test/policies').sort()
}
