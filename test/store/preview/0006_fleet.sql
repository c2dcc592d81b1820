SET LOCAL lock_timeout = '2s';
SET LOCAL ROLE __prefix__owner;

-- One row for each gate, written by its heartbeat about twice a second.
CREATE TABLE __schema__.gates (
  id uuid PRIMARY KEY,
  host text NOT NULL,
  pid int NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  ready boolean NOT NULL,
  -- Everything visible in this snapshot is in force there; null before the first load.
  cursor pg_snapshot,
  -- When that was all there was, by this clock.
  fresh_at timestamptz,
  rows bigint NOT NULL,
  -- How long the gate may allow without a newer proof of freshness.
  allows interval NOT NULL,
  -- What it can match: issuer -> names of columns. '' stands for requests without a token.
  matches jsonb NOT NULL,
  -- Names of its peppers.
  peppers text[] NOT NULL,
  -- How long a token that it accepts may live at most, tolerance included.
  token_lifetime interval NOT NULL
) WITH (fillfactor = 50);

-- Rows whose writer waits for receipts.
CREATE TABLE __schema__.waits (
  row_id bigint PRIMARY KEY,
  chg_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Proof that a gate has applied one revocation: when, and how many open exchanges it ended.
CREATE TABLE __schema__.receipts (
  row_id bigint NOT NULL,
  gate uuid NOT NULL,
  at timestamptz NOT NULL,
  cuts int NOT NULL,
  PRIMARY KEY (row_id, gate)
);

-- How many rows no gate could match when they were inserted. A sequence: counting must not make revokers queue.
CREATE SEQUENCE __schema__.unmatched_seq;

ALTER TABLE __schema__.feed ADD COLUMN purge_row bigint;

-- Gates that may be serving: heard of lately, where a gate that may allow for long unheard of counts for as long.
CREATE VIEW __schema__.fleet AS
  SELECT id, host, pid, version, started_at, seen_at, ready, fresh_at, rows, allows,
    seen_at > clock_timestamp() - interval '2 s' AS heard
  FROM __schema__.gates
  WHERE seen_at > clock_timestamp() - allows - interval '30 s';

CREATE FUNCTION __schema__.beat(gate uuid, beat jsonb, OUT gates int, OUT unmatched bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  INSERT INTO gates AS g (id, host, pid, version, started_at, seen_at, ready, cursor, fresh_at, rows, allows, matches,
      peppers, token_lifetime)
    VALUES (gate, left(beat->>'host', 255), (beat->>'pid')::int, left(beat->>'version', 64),
      (beat->>'started_at')::timestamptz, clock_timestamp(), (beat->>'ready')::boolean, (beat->>'cursor')::pg_snapshot,
      clock_timestamp() - (beat->>'age_ms')::float8 * interval '1 ms', (beat->>'rows')::bigint,
      (beat->>'allows_ms')::float8 * interval '1 ms', beat->'matches',
      ARRAY(SELECT jsonb_array_elements_text(beat->'peppers')),
      (beat->>'token_lifetime_ms')::float8 * interval '1 ms')
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, ready = excluded.ready, cursor = excluded.cursor,
      fresh_at = excluded.fresh_at, rows = excluded.rows, allows = excluded.allows, matches = excluded.matches,
      peppers = excluded.peppers, token_lifetime = excluded.token_lifetime;
  gates := (SELECT count(*) FROM fleet);
  unmatched := (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM unmatched_seq s);
END $$;

-- The gate has ended in order.
CREATE FUNCTION __schema__.leave(gate uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  DELETE FROM gates WHERE id = gate
$$;

-- Rows that somebody waits for, that this gate has not confirmed and that are visible in its cursor.
CREATE FUNCTION __schema__.wanted(gate uuid, cursor pg_snapshot) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT w.row_id FROM waits w
  WHERE w.at > now() - interval '10 min' AND pg_visible_in_snapshot(w.chg_xid, cursor)
    AND NOT EXISTS (SELECT FROM receipts r WHERE r.row_id = w.row_id AND r.gate = wanted.gate)
  ORDER BY w.at DESC LIMIT 1000
$$;

-- `ago_ms`: how long the row had been in force when this was sent, so only this clock counts.
CREATE FUNCTION __schema__.confirm(gate uuid, row_ids bigint[], ago_ms float8[], cuts int[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  INSERT INTO receipts (row_id, gate, at, cuts)
    SELECT c.row_id, confirm.gate, clock_timestamp() - c.ago * interval '1 ms', c.cuts
    FROM unnest(row_ids, ago_ms, confirm.cuts) AS c (row_id, ago, cuts)
    JOIN waits w ON w.row_id = c.row_id
  ON CONFLICT (row_id, gate) DO UPDATE SET cuts = greatest(receipts.cuts, excluded.cuts)
$$;

-- To be called in the transaction that inserts the row.
CREATE FUNCTION __schema__.expect_receipts(row_id bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  INSERT INTO waits (row_id) VALUES (row_id) ON CONFLICT DO NOTHING
$$;

-- Each gate that may be serving, with its receipt. One that has not confirmed the row cannot have had an answer to a tick
-- that was sent after the commit, so it stops allowing `allows` after that at the latest.
CREATE FUNCTION __schema__.receipts_of(wanted_row bigint)
RETURNS TABLE (gate uuid, host text, pid int, ms float8, cuts int, may_allow_until timestamptz, heard boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT f.id, f.host, f.pid, CASE WHEN r.at IS NOT NULL THEN greatest(0, extract(epoch FROM r.at - w.at) * 1000)::float8 END, r.cuts,
    CASE WHEN r.at IS NULL THEN w.at + f.allows END, f.heard
  FROM waits w CROSS JOIN fleet f LEFT JOIN receipts r ON r.row_id = w.row_id AND r.gate = f.id
  WHERE w.row_id = wanted_row
  ORDER BY f.host, f.pid, f.id
$$;

-- Whether a gate that runs can match a row that names these columns. True as long as no gate has said what it can.
CREATE FUNCTION __schema__.can_match(of_issuer text, columns text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h')
    OR EXISTS (
      SELECT FROM gates g, jsonb_each(g.matches) m
      WHERE g.seen_at > now() - interval '1 h' AND (of_issuer IS NULL OR m.key = of_issuer)
        AND m.value @> to_jsonb(array_remove(columns, NULL)))
$$;

-- Whether a gate that runs knows the pepper of this name.
CREATE FUNCTION __schema__.knows_pepper(name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h')
    OR EXISTS (SELECT FROM gates g WHERE g.seen_at > now() - interval '1 h' AND name = ANY (g.peppers))
$$;

-- The columns of a row that a gate must be set up for; every gate knows the others.
CREATE FUNCTION __schema__.demands(token_hash bytea, tenant text, group_value text, client_cert text, device_id text)
RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY[
    CASE WHEN token_hash IS NOT NULL THEN 'token_hash' END, CASE WHEN tenant IS NOT NULL THEN 'tenant' END,
    CASE WHEN group_value IS NOT NULL THEN 'group_value' END, CASE WHEN client_cert IS NOT NULL THEN 'client_cert' END,
    CASE WHEN device_id IS NOT NULL THEN 'device_id' END]
$$;

-- A row that nothing enforces must not look like one that is. Advice, so of a bulk insert only the first rows.
CREATE FUNCTION __schema__.warn_unmatched() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT n.id, n.issuer, d.columns
    FROM (SELECT * FROM new_rows r
          WHERE num_nonnulls(r.issuer, r.token_hash, r.tenant, r.group_value, r.client_cert, r.device_id) > 0
          LIMIT 1000) n,
      demands(n.token_hash, n.tenant, n.group_value, n.client_cert, n.device_id) AS d (columns)
    WHERE NOT can_match(n.issuer, d.columns)
  LOOP
    PERFORM nextval('unmatched_seq');
    RAISE WARNING 'no gate can match revocation %', found.id
      USING HINT = coalesce('of issuer ' || found.issuer || ' ', '')
        || coalesce('by ' || nullif(array_to_string(found.columns, ', '), ''), 'it is not configured on any gate');
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER f_warn_unmatched AFTER INSERT ON __schema__.revocations
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.warn_unmatched();

-- The ids among these whose rows no gate can match.
CREATE FUNCTION __schema__.unmatched_of(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT r.id FROM revocations r WHERE r.id = ANY (ids)
    AND NOT can_match(r.issuer, demands(r.token_hash, r.tenant, r.group_value, r.client_cert, r.device_id))
$$;

-- Deletes what is provably dead, a batch at a time; several callers at once do no more than one.
--
-- A cutoff is dead once every token from before it has ended, and so is a row that names one token. No gate accepts
-- a token that lives longer than its `token_lifetime`, so that is `horizon`, a little later. Should a gate come that
-- accepts longer ones, tokens could come back to life: hence first a cutoff for everyone at the horizon. It hits only
-- tokens that have ended already, for every gate known so far.
CREATE FUNCTION __schema__.purge(batch int, OUT revocations bigint, OUT tombs bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  horizon timestamptz;
  floor_row bigint;
  dead bigint[];
  floor_xid xid8;
BEGIN
  revocations := 0;
  tombs := 0;
  IF NOT pg_try_advisory_xact_lock('__schema__.revocations'::regclass::oid::bigint) THEN RETURN; END IF;
  -- By the hour, so that the row for everyone changes at most that often.
  SELECT date_trunc('hour', now() - greatest(interval '24 h', max(g.token_lifetime)) - interval '10 min')
    INTO horizon FROM gates g;
  SELECT f.purge_row INTO floor_row FROM feed f;
  dead := ARRAY(
    SELECT r.id FROM revocations r
    WHERE r.id IS DISTINCT FROM floor_row AND (
      r.expires_at < now() - interval '1 h'
      OR (r.compare = 'iat' AND r.issued_before < horizon)
      OR (r.issued_before IS NULL AND r.created_at < horizon AND num_nonnulls(r.token_id, r.token_hash) > 0))
    LIMIT least(greatest(batch, 1), 10000));
  IF cardinality(dead) > 0 THEN
    UPDATE revocations r SET issued_before = horizon WHERE r.id = floor_row AND r.issued_before < horizon;
    IF NOT EXISTS (SELECT FROM revocations r WHERE r.id = floor_row AND r.everyone AND r.issued_before >= horizon
        AND r.expires_at IS NULL) THEN
      INSERT INTO revocations (everyone, issued_before, reason, source)
        VALUES (true, horizon, 'stands for the older cutoffs that were purged', 'dropgate purge')
        RETURNING id INTO floor_row;
      UPDATE feed SET purge_row = floor_row;
    END IF;
    DELETE FROM revocations r WHERE r.id = ANY (dead);
    revocations := cardinality(dead);
  END IF;
  -- Tombstones are for gates that were away; one that comes later loads everything.
  WITH gone AS (
    DELETE FROM tomb WHERE ctid = ANY (ARRAY(
      SELECT t.ctid FROM tomb t WHERE t.at < now() - interval '7 days' LIMIT least(greatest(batch, 1), 10000)))
    RETURNING chg_xid)
  SELECT count(*), (SELECT g.chg_xid FROM gone g ORDER BY g.chg_xid DESC LIMIT 1) INTO tombs, floor_xid FROM gone;
  IF tombs > 0 THEN
    UPDATE feed SET tomb_floor = CASE WHEN tomb_floor > floor_xid THEN tomb_floor ELSE floor_xid END;
  END IF;
  DELETE FROM gates WHERE seen_at < now() - interval '1 day' - allows;
  DELETE FROM receipts r USING waits w WHERE r.row_id = w.row_id AND w.at < now() - interval '1 h';
  DELETE FROM waits WHERE at < now() - interval '1 h';
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA __schema__ FROM PUBLIC;
GRANT EXECUTE ON FUNCTION __schema__.beat(uuid, jsonb), __schema__.leave(uuid), __schema__.wanted(uuid, pg_snapshot),
    __schema__.confirm(uuid, bigint[], float8[], int[]), __schema__.purge(int)
  TO __prefix__gate;
GRANT EXECUTE ON FUNCTION __schema__.purge(int) TO __prefix__lifter;
GRANT EXECUTE ON FUNCTION __schema__.expect_receipts(bigint), __schema__.receipts_of(bigint),
    __schema__.can_match(text, text[]), __schema__.knows_pepper(text), __schema__.unmatched_of(bigint[])
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT SELECT ON __schema__.fleet TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
