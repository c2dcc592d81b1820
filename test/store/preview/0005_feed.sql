SET LOCAL lock_timeout = '2s';
SET LOCAL ROLE __prefix__owner;

-- Notifications carry no privileges: whoever can connect can send one. So those that carry rows are authenticated, by
-- HMAC-SHA256 with a key that only the owner reads and gates are handed. Newest first; the pads save two loops a row.
CREATE TABLE __schema__.mac_keys (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key bytea NOT NULL CHECK (octet_length(key) = 32),
  inner_pad bytea NOT NULL,
  outer_pad bytea NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now()
);

-- To rotate the key: `SELECT dropgate.new_mac_key()` as the owner. Gates notice with their next tick.
CREATE FUNCTION __schema__.new_mac_key() RETURNS int
LANGUAGE plpgsql SET search_path = __schema__, pg_temp AS $$
DECLARE
  key bytea := sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
  inner_pad bytea := decode(repeat('36', 64), 'hex');
  outer_pad bytea := decode(repeat('5c', 64), 'hex');
  made int;
BEGIN
  FOR i IN 0..31 LOOP
    inner_pad := set_byte(inner_pad, i, get_byte(key, i) # 54);
    outer_pad := set_byte(outer_pad, i, get_byte(key, i) # 92);
  END LOOP;
  INSERT INTO mac_keys (key, inner_pad, outer_pad) VALUES (key, inner_pad, outer_pad) RETURNING id INTO made;
  DELETE FROM mac_keys WHERE id < made;
  RETURN made;
END $$;
SELECT __schema__.new_mac_key();

CREATE FUNCTION __schema__.mac_key(OUT id int, OUT key bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
  SELECT k.id, k.key FROM mac_keys k ORDER BY k.id DESC LIMIT 1
$$;

-- After a restore from a dump, whose stamps are those of another time: every row is stamped anew and gates load
-- everything.
CREATE FUNCTION __schema__.reset_feed() RETURNS void
LANGUAGE plpgsql SET search_path = __schema__, pg_temp AS $$
BEGIN
  UPDATE revocations SET reason = reason;
  DELETE FROM tomb;
  UPDATE feed SET generation = gen_random_uuid();
  PERFORM wake('r');
END $$;

-- Rows of one predicate travel in the notification, so that a gate denies before it has asked; the others, and more
-- than fit, only wake it. Body: key id, transaction, then for each row its id, key, cutoff, expiry and flags; before
-- it the MAC; all in base64. At most 16 such notifications in a transaction: identical ones collapse, these do not.
CREATE OR REPLACE FUNCTION __schema__.announce() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  most CONSTANT int := 128;
  sent text := current_setting('dropgate.payloads', true);
  total int;
  simple int;
  mac mac_keys;
  body bytea;
BEGIN
  -- A gate must not deny, or stop denying, by a row that a crash then loses.
  IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF TG_OP IN ('UPDATE', 'DELETE') THEN
    INSERT INTO tomb (row_id, keys) SELECT id, keys FROM old_rows;
    PERFORM wake('w');
    RETURN NULL;
  END IF;
  SELECT count(*), count(*) FILTER (WHERE octet_length(keys) = 17) INTO total, simple
    FROM (SELECT keys FROM new_rows LIMIT most + 1) r;
  IF total = 0 THEN RETURN NULL; END IF;
  IF sent IS NULL OR sent !~ '^[0-9]{1,2}$' THEN sent := '0'; END IF;
  IF total > most OR simple = 0 OR sent::int >= 16 THEN
    PERFORM wake('w');
    RETURN NULL;
  END IF;
  SELECT * INTO mac FROM mac_keys ORDER BY id DESC LIMIT 1;
  SELECT int4send(mac.id) || int8send(pg_current_xact_id()::text::bigint) || string_agg(
      int8send(id) || keys
      || int8send(coalesce(ceil(extract(epoch FROM issued_before) * 1000000)::bigint, 0))
      || int8send(coalesce(ceil(extract(epoch FROM expires_at))::bigint, 0))
      || set_byte('\x00'::bytea, 0, (issued_before IS NOT NULL)::int + (event_time IS NOT NULL)::int * 2
           + (compare = 'auth_time')::int * 4 + (expires_at IS NOT NULL)::int * 8), '\x'::bytea)
    INTO body FROM new_rows WHERE octet_length(keys) = 17;
  PERFORM set_config('dropgate.payloads', (sent::int + 1)::text, true);
  PERFORM wake('p' || translate(encode(sha256(mac.outer_pad || sha256(mac.inner_pad || body)) || body, 'base64'), E'\n', ''));
  IF simple < total THEN PERFORM wake('w'); END IF;
  RETURN NULL;
END $$;
DROP TRIGGER c_announce_insert ON __schema__.revocations;
CREATE TRIGGER c_announce_insert AFTER INSERT ON __schema__.revocations
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce();
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER c_announce_insert;

-- COPY takes times as they are stored: numbers are made of them by the gate, which is not shared.
CREATE OR REPLACE VIEW __schema__.live AS
  SELECT id, keys,
    ceil(extract(epoch FROM issued_before) * 1000000)::bigint AS cutoff_us,
    event_time IS NOT NULL AS exact,
    ceil(extract(epoch FROM expires_at))::bigint AS expires_s,
    chg_xid,
    compare = 'auth_time' AS auth_time,
    issued_before, expires_at
  FROM __schema__.revocations;

CREATE VIEW __schema__.tombs AS SELECT row_id, keys, chg_xid FROM __schema__.tomb;

-- Sums over the whole table, as revocation/digest.ts keeps them over the ledger.
CREATE VIEW __schema__.digest AS
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

-- As before, and which key MACs are made with, and how full the queue of notifications is.
CREATE FUNCTION __schema__.state(
  OUT snapshot text, OUT generation text, OUT schema_version int, OUT channel text, OUT tomb_floor text,
  OUT system_id text, OUT timeline text, OUT standby boolean, OUT clock_ms float8, OUT pointers text[],
  OUT mac_key int, OUT queue_usage float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  standby := pg_is_in_recovery();
  SELECT pg_current_snapshot()::text, f.generation::text, f.schema_version, f.channel, f.tomb_floor::text
    INTO snapshot, generation, schema_version, channel, tomb_floor FROM feed f;
  SELECT c.system_identifier::text INTO system_id FROM pg_control_system() c;
  -- The file name of the current position knows the timeline at once; the control file lags a promotion.
  timeline := CASE WHEN standby THEN NULL ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END;
  clock_ms := extract(epoch FROM clock_timestamp()) * 1000;
  pointers := ARRAY(SELECT p.pointer FROM claim_pointers p);
  mac_key := (SELECT max(k.id) FROM mac_keys k);
  queue_usage := pg_notification_queue_usage();
END $$;

-- As before, but at most `cap` rows of each sort: a gate that gets more than it asked for has seen a part only, must not
-- take it for all, and reads what is missing on a session of its own.
CREATE FUNCTION __schema__.changes(cursor pg_snapshot, cap int)
RETURNS TABLE (op "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean, expires_s bigint,
               meta text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  upper_xid xid8 := pg_snapshot_xmax(cursor);
  open_xids xid8[] := ARRAY(SELECT pg_snapshot_xip(cursor));
BEGIN
  RETURN QUERY SELECT 'm'::"char", NULL::bigint, NULL::bytea, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    row_to_json(i)::text FROM state() i;
  RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    NULL::text FROM tomb t WHERE t.chg_xid >= upper_xid LIMIT cap;
  RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text
    FROM live l WHERE l.chg_xid >= upper_xid LIMIT cap;
  IF open_xids <> '{}' THEN
    RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
      NULL::text FROM tomb t WHERE t.chg_xid = ANY (open_xids) LIMIT cap;
    RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text
      FROM live l WHERE l.chg_xid = ANY (open_xids) LIMIT cap;
  END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA __schema__ FROM PUBLIC;
GRANT EXECUTE ON FUNCTION __schema__.state(), __schema__.changes(pg_snapshot, int), __schema__.mac_key()
  TO __prefix__gate;
GRANT SELECT ON __schema__.tombs, __schema__.digest TO __prefix__gate;
