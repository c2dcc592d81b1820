-- The queries of a gate: all rows (live), removed rows (tombs), changes since its cursor (changes), sums to compare
-- with (digest). Views run with the owner's rights, so the gate needs no rights on the tables.

-- The columns of a revocation that a gate needs, in the units that it keeps: µs and whole seconds since 1970. floor and
-- ceil round towards denying longer. COPY returns times as they are stored: the gate converts them, so that the
-- database server need not.
CREATE OR REPLACE VIEW __schema__.live AS
  SELECT id, keys,
    ceil(extract(epoch FROM issued_before) * 1000000)::bigint AS cutoff_us,
    event_time IS NOT NULL AS exact,
    ceil(extract(epoch FROM expires_at))::bigint AS expires_s,
    chg_xid,
    compare = 'auth_time' AS auth_time,
    issued_before, expires_at
  FROM __schema__.revocations;

CREATE OR REPLACE VIEW __schema__.tombs AS SELECT row_id, keys, chg_xid, kind FROM __schema__.tomb;

-- Sums over all revocations, as revocation/digest.ts keeps them over the ledger.
CREATE OR REPLACE VIEW __schema__.digest AS
  SELECT (id % 256)::int AS bucket, count(*) AS rows, sum(id & 4294967295) AS ids,
    sum(get_byte(keys, 1) + get_byte(keys, 2) * 256 + get_byte(keys, 3) * 65536 + get_byte(keys, 4)::bigint * 16777216)
      AS words,
    sum(coalesce((extract(epoch FROM issued_before) * 1000000)::bigint & 4294967295, 0)) AS cutoffs,
    sum(octet_length(keys) / 17 - 1
      + CASE WHEN issued_before IS NULL THEN 0
          ELSE 256 + (event_time IS NOT NULL)::int * 512 + (compare = 'auth_time')::int * 1024 END
      + CASE WHEN expires_at IS NULL THEN 0
          ELSE greatest(ceil(extract(epoch FROM expires_at))::bigint - 946684800, 1) END) AS rest,
    max(key_version) AS key_version
  FROM __schema__.revocations GROUP BY 1;

-- The key of the notifications, for gates alone.
CREATE OR REPLACE FUNCTION __schema__.mac_key(OUT id int, OUT key bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT k.id, k.key FROM mac_keys k ORDER BY k.id DESC LIMIT 1
$$;

-- Immutable, since a server process serves one cluster as long as it lives: so each session reads the server's control
-- file once, and not at every tick.
CREATE OR REPLACE FUNCTION __schema__.this_cluster() RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT c.system_identifier FROM pg_control_system() c);
END $$;

-- Identity and position of this database, its newest anchor, the triggers of the feed, the claims that rows name, the key
-- of notifications and the use of their queue, all in one snapshot. Times are whole numbers, and the share is no float:
-- as text, a float depends on settings.
CREATE OR REPLACE FUNCTION __schema__.state(
  OUT snapshot text, OUT generation text, OUT schema_version int, OUT channel text, OUT tomb_floor text,
  OUT system_id text, OUT relation text, OUT timeline text, OUT standby boolean, OUT clock_ms bigint,
  OUT anchor text, OUT anchor_snapshot text, OUT triggers text[], OUT pointers text[], OUT mac_key int, OUT queue_usage numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  -- A table that was dropped and made anew has another number, also where everything in it is as before.
  followed oid := to_regclass('__schema__.revocations');
BEGIN
  standby := pg_is_in_recovery();
  relation := followed::text;
  -- Only gates of the second preview read this: they load everything when it changes.
  timeline := CASE WHEN standby THEN NULL ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END;
  system_id := this_cluster()::text;
  clock_ms := floor(extract(epoch FROM clock_timestamp()) * 1000);
  queue_usage := round(pg_notification_queue_usage()::numeric, 4);
  -- One statement, since each costs as much to start as it does here to run.
  SELECT pg_current_snapshot()::text, f.generation::text, f.schema_version, f.channel, f.tomb_floor::text,
      a.nonce::text, a.snapshot::text, ARRAY(SELECT p.pointer FROM claim_pointers p),
      (SELECT k.id FROM mac_keys k ORDER BY k.id DESC LIMIT 1),
      -- Each trigger of the feed, for which sessions it fires, and the transaction that has set that (feed/triggers.ts).
      ARRAY(SELECT concat(t.tgname, ' ', t.tgenabled, ' ', t.xmin) FROM pg_trigger t
        WHERE t.tgrelid = followed AND t.tgname >= 'a' AND t.tgname < 'e' ORDER BY t.tgname)
    INTO snapshot, generation, schema_version, channel, tomb_floor, anchor, anchor_snapshot, pointers, mac_key, triggers
    FROM feed f LEFT JOIN LATERAL (SELECT b.nonce, b.snapshot FROM anchors b ORDER BY b.n DESC LIMIT 1) a ON true
    WHERE f.one;
END $$;

-- Writes an anchor with this nonce, unless the newest is younger than a second: then all gates take that one. Two gates at
-- once may write one each, which does no harm. An advisory lock would: every login of the database can hold it. The row
-- must be on disk before a gate sees it. It does not wait for a synchronous standby, which may be away: a gate that finds
-- no anchor after a promotion loads everything.
CREATE OR REPLACE FUNCTION __schema__.anchor(nonce uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  -- Both bounds: after the clock was set back, the newest would seem young for long.
  IF (SELECT a.at BETWEEN clock_timestamp() - interval '1 s' AND clock_timestamp()
      FROM anchors a ORDER BY a.n DESC LIMIT 1) THEN
    RETURN;
  END IF;
  PERFORM set_config('synchronous_commit', 'local', true);
  INSERT INTO anchors (nonce, snapshot, database, system_id)
    SELECT anchor.nonce, pg_current_snapshot(), d.oid, this_cluster()
    FROM pg_database d WHERE d.datname = current_database();
END $$;

-- Those of the given anchors that were written in this database and are in its history.
CREATE OR REPLACE FUNCTION __schema__.held(nonces uuid[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT a.nonce FROM anchors a, pg_database d
  WHERE a.nonce = ANY (nonces) AND d.datname = current_database() AND a.database = d.oid AND a.system_id = this_cluster()
$$;

-- Everything that became visible since the snapshot `cursor`: exactly the rows that are not visible in it. So no row is
-- missed, even if its transaction commits late, and no row waits for a long transaction. First comes the meta row ('m',
-- with state() as JSON), then tombstones ('t') and rows ('r'), each with the letter of its table in `kind`. A gate
-- reads the kinds that it knows, so a further table adds its rows here.
--
-- Then come the rows with the given ids ('i'), whenever they were written: a gate asks for those that it has changed
-- since an anchor.
--
-- Returns at most `cap` rows and `cap` tombstones: a gate that gets more than it can take knows that the answer is
-- incomplete, applies none of it, and reads the changes on a second session. NULL means no cap. Rows by id are not
-- counted. Only gates of the second preview read `xid`.
--
-- Not in the language SQL, which would plan the query anew at each call. Without seqscan, since a generic plan expects
-- a third of the table for "greater than a parameter".
CREATE OR REPLACE FUNCTION __schema__.changes(cursor pg_snapshot, cap int, ids bigint[])
RETURNS TABLE (op "char", kind "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean,
               expires_s bigint, meta text, xid xid8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  upper_xid xid8 := pg_snapshot_xmax(cursor);
  open_xids xid8[] := ARRAY(SELECT pg_snapshot_xip(cursor));
BEGIN
  op := 'm';
  meta := row_to_json(state())::text;
  RETURN NEXT;
  RETURN QUERY SELECT 't'::"char", t.kind, t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    NULL::text, t.chg_xid FROM tomb t WHERE t.chg_xid >= upper_xid LIMIT cap;
  RETURN QUERY SELECT 'r'::"char", 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text,
    l.chg_xid FROM live l WHERE l.chg_xid >= upper_xid LIMIT cap;
  IF open_xids <> '{}' THEN
    RETURN QUERY SELECT 't'::"char", t.kind, t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
      NULL::text, t.chg_xid FROM tomb t WHERE t.chg_xid = ANY (open_xids) LIMIT cap;
    RETURN QUERY SELECT 'r'::"char", 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text,
      l.chg_xid FROM live l WHERE l.chg_xid = ANY (open_xids) LIMIT cap;
  END IF;
  IF ids <> '{}' THEN
    RETURN QUERY SELECT 'i'::"char", 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text,
      l.chg_xid FROM live l WHERE l.id = ANY (ids);
  END IF;
END $$;

-- For gates of the second preview, which may run while the database is migrated.
CREATE OR REPLACE FUNCTION __schema__.changes(cursor pg_snapshot, cap int)
RETURNS TABLE (op "char", kind "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean,
               expires_s bigint, meta text, xid xid8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT * FROM changes(cursor, cap, '{}'::bigint[]);
END $$;
