-- Upkeep of the feed: purging, a new key for notifications, a reset after a restore.

-- Deletes rows that can no longer match any valid token, a batch at a time; of several callers at once, only one works.
--
-- A cutoff can be deleted once every token that was issued before it has expired, and so can a row that names one
-- token. No gate accepts a token that lives longer than its `token_lifetime`; `horizon` is that long ago, and a little
-- longer. If a later gate accepts longer lifetimes, revoked tokens could become valid again. So first a cutoff for
-- everyone is placed at the horizon: for every gate known so far, it hits only expired tokens.
CREATE OR REPLACE FUNCTION __schema__.purge(batch int, OUT revocations bigint, OUT tombs bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  horizon timestamptz;
  floor_row bigint;
  dead bigint[];
  floor_xid xid8;
BEGIN
  revocations := 0;
  tombs := 0;
  -- Not by an advisory lock, which every login of the database can hold.
  PERFORM FROM feed FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN RETURN; END IF;
  -- Rounded to the hour, so that the row for everyone changes at most once an hour.
  SELECT date_trunc('hour', now() - greatest(interval '24 h', max(g.token_lifetime)) - interval '10 min', 'UTC')
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
  -- Tombstones are for gates that were disconnected; a gate that returns later loads everything.
  WITH gone AS (
    DELETE FROM tomb WHERE ctid = ANY (ARRAY(
      SELECT t.ctid FROM tomb t WHERE t.at < now() - interval '168 h' LIMIT least(greatest(batch, 1), 10000)))
    RETURNING chg_xid)
  SELECT count(*), (SELECT g.chg_xid FROM gone g ORDER BY g.chg_xid DESC LIMIT 1) INTO tombs, floor_xid FROM gone;
  IF tombs > 0 THEN
    UPDATE feed SET tomb_floor = CASE WHEN tomb_floor > floor_xid THEN tomb_floor ELSE floor_xid END;
  END IF;
  -- A gate that was away for longer loads everything. The newest stays: while nothing changes, no other is written.
  DELETE FROM anchors a WHERE a.at < now() - interval '168 h' AND a.n < (SELECT max(b.n) FROM anchors b);
  DELETE FROM gates WHERE seen_at < now() - interval '24 h' - allows;
  -- A canary that no gate has replaced; first, since its row here is what tells it from other rows.
  DELETE FROM revocations r WHERE r.id = ANY (ARRAY(
    SELECT c.row_id FROM canaries c JOIN waits w ON w.row_id = c.row_id WHERE w.at < now() - interval '1 h'));
  DELETE FROM receipts r USING waits w WHERE r.row_id = w.row_id AND w.at < now() - interval '1 h';
  DELETE FROM waits WHERE at < now() - interval '1 h';
END $$;

-- To rotate the key, run `SELECT dropgate.new_mac_key()` as the owner. Gates learn the new key with their next tick.
CREATE OR REPLACE FUNCTION __schema__.new_mac_key() RETURNS int
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
SELECT __schema__.new_mac_key() WHERE NOT EXISTS (SELECT FROM __schema__.mac_keys);

-- After a restore from a dump, the stamps come from another time, and rows that were written while triggers were off may
-- have no stamps or the keys of other rows. Turns the triggers on, prepares and stamps every row anew, and gates load
-- everything.
CREATE OR REPLACE FUNCTION __schema__.reset_feed() RETURNS void
LANGUAGE plpgsql SET search_path = __schema__, pg_temp AS $$
BEGIN
  PERFORM enable_triggers();
  UPDATE revocations SET reason = reason;
  DELETE FROM tomb;
  UPDATE feed SET generation = gen_random_uuid();
  PERFORM wake('r');
END $$;
