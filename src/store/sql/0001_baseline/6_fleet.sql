-- The gates and the writers: heartbeats, receipts for revocations, canaries, and rows that no gate can match.

-- Gates that may be serving: those that have reported lately. A gate that may allow for long without a new proof stays
-- listed for that long. One that has missed several heartbeats is not ready, whatever it said last.
CREATE OR REPLACE VIEW __schema__.fleet AS
  SELECT id, host, pid, version, started_at, seen_at, ready AND seen_at > clock_timestamp() - interval '2 s' AS ready,
    fresh_at, rows, allows, seen_at > clock_timestamp() - interval '2 s' AS heard, policies
  FROM __schema__.gates
  WHERE seen_at > clock_timestamp() - allows - interval '30 s';

-- A gate reports that it runs and which rows it can match, and gets the number of gates.
CREATE OR REPLACE FUNCTION __schema__.beat(gate uuid, beat jsonb, OUT gates int, OUT unmatched bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  INSERT INTO gates AS g (id, host, pid, version, started_at, seen_at, ready, cursor, fresh_at, rows, allows, matches,
      peppers, token_lifetime, policies)
    VALUES (gate, left(beat->>'host', 255), (beat->>'pid')::int, left(beat->>'version', 64),
      (beat->>'started_at')::timestamptz, clock_timestamp(), (beat->>'ready')::boolean, (beat->>'cursor')::pg_snapshot,
      clock_timestamp() - (beat->>'age_ms')::float8 * interval '1 ms', (beat->>'rows')::bigint,
      (beat->>'allows_ms')::float8 * interval '1 ms', beat->'matches',
      ARRAY(SELECT jsonb_array_elements_text(beat->'peppers')),
      (beat->>'token_lifetime_ms')::float8 * interval '1 ms', coalesce(beat->'policies', '{}'))
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, ready = excluded.ready, cursor = excluded.cursor,
      fresh_at = excluded.fresh_at, rows = excluded.rows, allows = excluded.allows, matches = excluded.matches,
      peppers = excluded.peppers, token_lifetime = excluded.token_lifetime, policies = excluded.policies;
  gates := (SELECT count(*) FROM fleet);
  unmatched := (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM unmatched_seq s);
END $$;

-- The gate has stopped in order: removes it from the list.
CREATE OR REPLACE FUNCTION __schema__.leave(gate uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  DELETE FROM gates WHERE id = gate
$$;

-- Rows whose writer waits for receipts and which this gate has not confirmed, as the table has them now. The gate confirms
-- those that it holds exactly so: a cursor that has passed a row does not show that the row is in force. A row that is
-- gone has no keys. `age_us` is the time since the writer asked for receipts, which was before its commit; `xid` tells this
-- row from another one of the same id that a restore puts in its place.
--
-- The table of revocations is not touched while no writer waits, so that a lock on it does not hold up heartbeats.
CREATE OR REPLACE FUNCTION __schema__.wanted(gate uuid)
RETURNS TABLE (row_id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean, expires_s bigint,
               canary boolean, age_us bigint, xid xid8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  ids bigint[] := ARRAY(
    SELECT w.row_id FROM waits w
    WHERE w.at > now() - interval '10 min'
      AND NOT EXISTS (SELECT FROM receipts r WHERE r.row_id = w.row_id AND r.gate = wanted.gate)
    ORDER BY w.at DESC LIMIT 1000);
BEGIN
  IF ids = '{}' THEN RETURN; END IF;
  RETURN QUERY SELECT w.row_id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, w.canary,
      ceil(extract(epoch FROM clock_timestamp() - w.at) * 1000000)::bigint, w.chg_xid
    FROM waits w LEFT JOIN live l ON l.id = w.row_id WHERE w.row_id = ANY (ids);
END $$;

-- For gates of the second preview, which may run while the database is migrated.
CREATE OR REPLACE FUNCTION __schema__.wanted(gate uuid, cursor pg_snapshot) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT w.row_id FROM waits w
  WHERE w.at > now() - interval '10 min' AND NOT w.canary AND pg_visible_in_snapshot(w.chg_xid, cursor)
    AND NOT EXISTS (SELECT FROM receipts r WHERE r.row_id = w.row_id AND r.gate = wanted.gate)
  ORDER BY w.at DESC LIMIT 1000
$$;

-- Receipts for rows that wanted() has returned in this session. `ago_ms` is the time from the moment when the row came into
-- force until this call was sent: only this server's clock is used.
CREATE OR REPLACE FUNCTION __schema__.confirm(gate uuid, row_ids bigint[], xids xid8[], ago_ms float8[], cuts int[])
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  INSERT INTO receipts (row_id, gate, at, cuts)
    SELECT c.row_id, confirm.gate, clock_timestamp() - c.ago * interval '1 ms', c.cuts
    FROM unnest(row_ids, xids, ago_ms, confirm.cuts) AS c (row_id, xid, ago, cuts)
    JOIN waits w ON w.row_id = c.row_id AND w.chg_xid = c.xid
  ON CONFLICT (row_id, gate) DO UPDATE SET cuts = greatest(receipts.cuts, excluded.cuts)
$$;

-- For gates of the second preview, which may run while the database is migrated.
CREATE OR REPLACE FUNCTION __schema__.confirm(gate uuid, row_ids bigint[], ago_ms float8[], cuts int[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  INSERT INTO receipts (row_id, gate, at, cuts)
    SELECT c.row_id, confirm.gate, clock_timestamp() - c.ago * interval '1 ms', c.cuts
    FROM unnest(row_ids, ago_ms, confirm.cuts) AS c (row_id, ago, cuts)
    JOIN waits w ON w.row_id = c.row_id
  ON CONFLICT (row_id, gate) DO UPDATE SET cuts = greatest(receipts.cuts, excluded.cuts)
$$;

-- To be called in the transaction that inserts the row. Ids are foreseeable, so receipts cannot be asked for before there
-- is a row: they would confirm one that comes later.
CREATE OR REPLACE FUNCTION __schema__.expect_receipts(row_id bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  INSERT INTO waits (row_id, chg_xid)
    SELECT r.id, r.chg_xid FROM revocations r WHERE r.id = expect_receipts.row_id
  ON CONFLICT DO NOTHING
$$;

-- Each gate that may be serving, with its receipt. A gate that does not have the row has had no answer to a tick that was
-- sent after the commit, so it stops allowing at the latest `allows` after the commit.
CREATE OR REPLACE FUNCTION __schema__.receipts_of(wanted_row bigint)
RETURNS TABLE (gate uuid, host text, pid int, ms float8, cuts int, may_allow_until timestamptz, heard boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT f.id, f.host, f.pid, CASE WHEN r.at IS NOT NULL THEN greatest(0, extract(epoch FROM r.at - w.at) * 1000)::float8 END, r.cuts,
    CASE WHEN r.at IS NULL THEN w.at + f.allows END, f.heard
  FROM waits w CROSS JOIN fleet f LEFT JOIN receipts r ON r.row_id = w.row_id AND r.gate = f.id
  WHERE w.row_id = wanted_row
  ORDER BY f.host, f.pid, f.id
$$;

-- Rows that only measure how fast rows come into force. No other row can become one: `waits` is written here alone.
CREATE OR REPLACE VIEW __schema__.canaries AS SELECT row_id FROM __schema__.waits WHERE canary;

-- Writes a canary in the place of the last one, unless another gate is writing one or the last is younger than
-- `every_ms`. Gates confirm it like any row whose writer waits, so `waits` and `receipts` hold what it measures.
--
-- It revokes nothing. It hits the tokens of one issuer, and of those only the ones with this `iss` (an actor of a token
-- does not count): a random name, which no configuration can have foreseen, in a form that configurations refuse.
--
-- `row_id` is null where none was written; `due_ms`: the next one is due then. A lock on the table must not hold up the
-- heartbeats of this session.
CREATE OR REPLACE FUNCTION __schema__.canary(every_ms bigint, OUT row_id bigint, OUT due_ms bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  every interval := greatest(every_ms, 1000) * interval '1 ms';
  last_at timestamptz;
BEGIN
  due_ms := 1000;
  -- One gate at a time. Not by an advisory lock, which every login of the database can hold.
  PERFORM FROM feed FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN; END IF;
  SELECT w.at INTO last_at FROM waits w WHERE w.canary ORDER BY w.row_id DESC LIMIT 1;
  -- Both bounds: after the clock was set back, the last one would seem young for long.
  IF last_at BETWEEN clock_timestamp() - every AND clock_timestamp() THEN
    due_ms := ceil(extract(epoch FROM last_at + every - clock_timestamp()) * 1000);
    RETURN;
  END IF;
  DELETE FROM receipts r USING waits w WHERE r.row_id = w.row_id AND w.canary AND w.at < now() - interval '1 h';
  row_id := nextval('canary_seq');
  INSERT INTO waits (row_id, canary) VALUES (canary.row_id, true);
  INSERT INTO revocations (id, issuer, reason, source) OVERRIDING SYSTEM VALUE
    VALUES (canary.row_id, 'dropgate:canary:' || gen_random_uuid(), 'measures how fast rows come into force; hits no token',
      'dropgate canary');
  DELETE FROM revocations r WHERE r.id = ANY (ARRAY(SELECT c.row_id FROM canaries c WHERE c.row_id <> canary.row_id));
  DELETE FROM waits w WHERE w.canary AND w.at < now() - interval '1 h';
  -- After the triggers, which ask for more: nor must a standby that is away.
  PERFORM set_config('synchronous_commit', 'local', true);
  due_ms := extract(epoch FROM every) * 1000;
END $$;

-- What the canaries of the last hour have measured at each gate: from just before the commit to in force on every worker.
-- `missed` are those since the gate's first one that it has not confirmed within ten seconds.
CREATE OR REPLACE VIEW __schema__.revocation_times AS
  WITH found AS (
    SELECT r.gate, w.at, round(extract(epoch FROM r.at - w.at) * 1000, 1) AS ms
    FROM __schema__.waits w JOIN __schema__.receipts r ON r.row_id = w.row_id
    WHERE w.canary AND w.at > clock_timestamp() - interval '1 h')
  SELECT f.gate, count(*) AS canaries, (array_agg(f.ms ORDER BY f.at DESC))[1] AS last_ms,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY f.ms) AS p50_ms,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY f.ms) AS p99_ms, max(f.ms) AS max_ms,
    (SELECT count(*) FROM __schema__.waits w
     WHERE w.canary AND w.at > min(f.at) AND w.at < clock_timestamp() - interval '10 s'
       AND NOT EXISTS (SELECT FROM __schema__.receipts r WHERE r.row_id = w.row_id AND r.gate = f.gate)) AS missed
  FROM found f GROUP BY f.gate;

-- True if a running gate can match a row with these columns, or if no gate has reported its columns yet. A gate may know the
-- issuer by a pattern, in which {tenantid} stands for a GUID; tokens have the GUID.
CREATE OR REPLACE FUNCTION __schema__.can_match(of_issuer text, columns text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h')
    OR EXISTS (
      SELECT FROM gates g, jsonb_each(g.matches) m
      WHERE g.seen_at > now() - interval '1 h'
        AND (of_issuer IS NULL OR strpos(of_issuer, '{tenantid}') = 0 AND m.key IN (of_issuer,
          regexp_replace(of_issuer, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '{tenantid}')))
        AND m.value @> to_jsonb(array_remove(columns, NULL)))
$$;

-- True if a running gate has the pepper of this name.
CREATE OR REPLACE FUNCTION __schema__.knows_pepper(name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h')
    OR EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h' AND name = ANY (g.peppers))
$$;

-- The columns of a row that a gate can match only with a certain setting; every gate can match the others.
CREATE OR REPLACE FUNCTION __schema__.demands(token_hash bytea, tenant text, group_value text, client_cert text, device_id text)
RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY[
    CASE WHEN token_hash IS NOT NULL THEN 'token_hash' END, CASE WHEN tenant IS NOT NULL THEN 'tenant' END,
    CASE WHEN group_value IS NOT NULL THEN 'group_value' END, CASE WHEN client_cert IS NOT NULL THEN 'client_cert' END,
    CASE WHEN device_id IS NOT NULL THEN 'device_id' END]
$$;

-- The issuer that a gate knows and that differs least from this one: the beginning and the end that two have in common make
-- up at least half of the longer. Null where there is none, or where a gate knows this one.
CREATE OR REPLACE FUNCTION __schema__.nearest_issuer(of_issuer text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT n.issuer FROM (
    SELECT k.issuer, (
        SELECT count(*) FROM generate_series(1, least(length(k.issuer), length(of_issuer))) c
        WHERE left(k.issuer, c) = left(of_issuer, c) OR right(k.issuer, c) = right(of_issuer, c))::numeric
      / greatest(length(k.issuer), length(of_issuer)) AS common
    FROM (SELECT DISTINCT m AS issuer FROM gates g, jsonb_object_keys(g.matches) m
      WHERE g.seen_at > now() - interval '1 h' AND m <> '') k) n
  WHERE n.common >= 0.5 AND NOT EXISTS (
    SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h' AND strpos(of_issuer, '{tenantid}') = 0
      AND g.matches ?| ARRAY[of_issuer, regexp_replace(of_issuer, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '{tenantid}')])
  ORDER BY n.common DESC, n.issuer LIMIT 1
$$;

-- Warns about a row that no gate can match, so that it does not look enforced, and about rows that have ended already. After a
-- bulk insert, only the first rows are looked at.
CREATE OR REPLACE FUNCTION __schema__.warn_unmatched() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  found record;
  asked text;
  nearest text;
  first_ended bigint;
  ended bigint;
BEGIN
  FOR found IN
    SELECT n.id, n.issuer, d.columns
    FROM (SELECT * FROM new_rows r
          WHERE num_nonnulls(r.issuer, r.token_hash, r.tenant, r.group_value, r.client_cert, r.device_id) > 0
          LIMIT 1000) n,
      demands(n.token_hash, n.tenant, n.group_value, n.client_cert, n.device_id) AS d (columns)
    WHERE NOT can_match(n.issuer, d.columns) AND NOT EXISTS (SELECT FROM waits w WHERE w.canary AND w.row_id = n.id)
  LOOP
    PERFORM nextval('unmatched_seq');
    IF found.issuer IS DISTINCT FROM asked THEN
      asked := found.issuer;
      nearest := nearest_issuer(asked);
    END IF;
    RAISE WARNING 'no gate can match revocation %', found.id
      USING HINT = CASE WHEN nearest IS NOT NULL THEN
          format('The nearest issuer that a gate knows is %s, and the row has %s: delete the row and insert it with that one.',
            in_words(nearest), in_words(found.issuer))
        ELSE 'Configure a gate for ' || coalesce(nullif(array_to_string(found.columns, ', '), ''), 'tokens')
          || coalesce(' of issuer ' || in_words(found.issuer), '') || ', or delete the row and insert what was meant.' END;
  END LOOP;
  SELECT count(*), min(r.id) INTO ended, first_ended
    FROM (SELECT * FROM new_rows LIMIT 1000) r WHERE r.expires_at <= clock_timestamp();
  IF ended > 0 THEN
    RAISE WARNING 'revocation % has ended already%', first_ended,
      CASE WHEN ended > 1 THEN format(', and so have %s others of this statement', ended - 1) ELSE '' END
      USING HINT = 'Omit expires_at for a revocation that stands until it is lifted, or write when it shall end.';
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER f_warn_unmatched AFTER INSERT ON __schema__.revocations
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.warn_unmatched();

-- Those of the given ids whose rows no gate can match.
CREATE OR REPLACE FUNCTION __schema__.unmatched_of(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT r.id FROM revocations r WHERE r.id = ANY (ids)
    AND NOT can_match(r.issuer, demands(r.token_hash, r.tenant, r.group_value, r.client_cert, r.device_id))
$$;
