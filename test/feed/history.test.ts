/**
 * Two gates on one database, writers who revoke and lift, callers everywhere, and connections that are cut, frozen and
 * refused meanwhile: no request is allowed that began after a commit and the bound; what cannot be known is 503.
 */
import t from 'tap'
import { TestGate } from '../harness/gate.ts'
import { type Read, unexplained, type Write } from '../harness/history.ts'
import { PostgresProxy } from '../harness/postgres.ts'
import { pause, seeded, seedOf, until } from '../harness/wait.ts'

t.test('the checker finds a broken history and passes a sound one', async (t) => {
  const writes: Write[] = [
    { kind: 'revoke', subject: 'a', beganMs: 100, endedMs: 110 },
    { kind: 'lift', subject: 'a', beganMs: 200, endedMs: 210 },
  ]
  const read = (beganMs: number, saw: Read['saw'], endedMs = beganMs + 1): Read => ({
    subject: 'a',
    gate: 'one',
    beganMs,
    endedMs,
    saw,
  })
  const sound = [
    read(50, 'allowed'),
    read(105, 'allowed'),
    read(101, 'revoked'),
    read(130, 'allowed'),
    read(150, 'revoked'),
    read(205, 'allowed'),
    read(255, 'revoked'),
    read(300, 'allowed'),
    read(90, 'revoked', 104),
    read(170, 'unavailable'),
  ]
  t.same(unexplained(writes, sound, 50), [])
  for (const broken of [
    read(161, 'allowed'),
    read(99, 'revoked', 99.5),
    read(261, 'revoked'),
    { ...read(300, 'revoked'), subject: 'b' },
  ]) {
    t.equal(unexplained(writes, [...sound, broken], 50).length, 1)
  }
})

/** `max_staleness`, exactly: a decision knows all that was committed that long before it. */
const boundMs = 1000
const seed = seedOf()

t.test('the histories of two gates under faults are explained by some order', async (t) => {
  t.comment(`SEED=${seed}`)
  const random = seeded(seed)
  const proxies = [new PostgresProxy(), new PostgresProxy()] as const
  const config = { revocation: { max_staleness: '1s', tick: '100ms' } }
  const one = await TestGate.start({ config, databaseUrl: (url) => proxies[0].open(url) })
  const two = await TestGate.start({
    config,
    beside: one,
    databaseUrl: (url) => proxies[1].open(url),
  })
  t.teardown(async () => {
    await two.stop()
    await one.stop()
    for (const proxy of proxies) proxy.close()
  })
  const writes: Write[] = []
  const reads: Read[] = []
  const endAt = performance.now() + 8000
  const subjects = Array.from({ length: 6 }, (_, i) => `subject-${i}`)

  const writing = subjects.map(async (subject) => {
    const client = await one.revoker()
    let id: string | undefined
    while (performance.now() < endAt) {
      const beganMs = performance.now()
      if (id === undefined) {
        const { rows } = await client.query(
          'INSERT INTO dropgate.revocations (subject) VALUES ($1) RETURNING id',
          [subject],
        )
        id = rows[0].id
        writes.push({ kind: 'revoke', subject, beganMs, endedMs: performance.now() })
      } else {
        await client.query('DELETE FROM dropgate.revocations WHERE id = $1', [id])
        id = undefined
        writes.push({ kind: 'lift', subject, beganMs, endedMs: performance.now() })
      }
      await pause(random() * 1500)
    }
  })
  const asking = [one, two].flatMap((gate, g) =>
    subjects.map(async (subject) => {
      const token = await one.issuer.token(subject)
      while (performance.now() < endAt) {
        const beganMs = performance.now()
        const { status, code } = await gate.ask('/orders', token)
        const saw = status === 200 ? 'allowed' : code === 'ERR_REVOKED' ? 'revoked' : 'unavailable'
        if (saw === 'unavailable') t.equal(status, 503)
        reads.push({ subject, gate: `gate ${g}`, beganMs, endedMs: performance.now(), saw })
        await pause(random() * 20)
      }
    }),
  )
  const breaking = (async () => {
    // One of them lasts for longer than a gate may do without its feed, whatever the seed.
    for (let long = true; performance.now() < endAt; long = false) {
      const proxy = proxies[Math.floor(random() * 2)]!
      const fault = long ? 3 : Math.floor(random() * 4)
      if (fault === 0) proxy.cut()
      if (fault === 1) proxy.dropNotifications = true
      if (fault === 2) proxy.silent = true
      if (fault === 3) {
        proxy.refusing = true
        proxy.cut()
      }
      await pause(long ? 2000 : 200 + random() * 1500)
      if (proxy.silent) proxy.cut()
      Object.assign(proxy, { dropNotifications: false, silent: false, refusing: false })
      await pause(random() * 300)
    }
  })()
  await Promise.all([...writing, ...asking, breaking])
  const seen = (saw: Read['saw']): number => reads.filter((read) => read.saw === saw).length
  t.comment(
    `${writes.length} writes; ${seen('allowed')} allowed, ${seen('revoked')} revoked, ${seen('unavailable')} unavailable`,
  )
  for (const saw of ['allowed', 'revoked', 'unavailable'] as const) t.ok(seen(saw) > 10, saw)
  t.same(unexplained(writes, reads, boundMs).slice(0, 5), [])
  await until(
    'both are ready again',
    () => one.gate.readiness().ready && two.gate.readiness().ready,
  )
})
