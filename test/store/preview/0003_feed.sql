SET LOCAL ROLE __prefix__owner;

-- What a gate needs of a row, in the numbers it keeps: µs and whole seconds since 1970. floor and ceil go the
-- way that denies longer.
CREATE VIEW __schema__.live AS
  SELECT id, keys,
    ceil(extract(epoch FROM issued_before) * 1000000)::bigint AS cutoff_us,
    event_time IS NOT NULL AS exact,
    ceil(extract(epoch FROM expires_at))::bigint AS expires_s,
    chg_xid
  FROM __schema__.revocations;

-- Who this database is and where it stands, all in one snapshot.
CREATE FUNCTION __schema__.ident(
  OUT snapshot text, OUT generation text, OUT schema_version int, OUT channel text, OUT tomb_floor text,
  OUT system_id text, OUT timeline text, OUT standby boolean, OUT clock_ms float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  standby := pg_is_in_recovery();
  SELECT pg_current_snapshot()::text, f.generation::text, f.schema_version, f.channel, f.tomb_floor::text
    INTO snapshot, generation, schema_version, channel, tomb_floor FROM feed f;
  SELECT c.system_identifier::text INTO system_id FROM pg_control_system() c;
  -- The file name of the current position knows the timeline at once; the control file lags a promotion.
  timeline := CASE WHEN standby THEN NULL ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END;
  clock_ms := extract(epoch FROM clock_timestamp()) * 1000;
END $$;

-- Everything that became visible since the snapshot `cursor`: exactly the complement of it, so nothing is missed
-- however late a transaction commits, and nothing waits for a long one. Row kinds: 'm' the meta text first,
-- 't' a tombstone, 'r' a row. Not the SQL language: that would plan anew at each call. Without seqscan: a
-- generic plan takes "greater than something" for a third of the table.
CREATE FUNCTION __schema__.changes(cursor pg_snapshot)
RETURNS TABLE (op "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, expires_s bigint, meta text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  upper_xid xid8 := pg_snapshot_xmax(cursor);
  open_xids xid8[] := ARRAY(SELECT pg_snapshot_xip(cursor));
BEGIN
  RETURN QUERY SELECT 'm'::"char", NULL::bigint, NULL::bytea, NULL::bigint, NULL::boolean, NULL::bigint,
    row_to_json(i)::text FROM ident() i;
  RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::bigint, NULL::text
    FROM tomb t WHERE t.chg_xid >= upper_xid;
  RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.expires_s, NULL::text
    FROM live l WHERE l.chg_xid >= upper_xid;
  IF open_xids <> '{}' THEN
    RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::bigint, NULL::text
      FROM tomb t WHERE t.chg_xid = ANY (open_xids);
    RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.expires_s, NULL::text
      FROM live l WHERE l.chg_xid = ANY (open_xids);
  END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA __schema__ FROM PUBLIC;
GRANT EXECUTE ON FUNCTION __schema__.ident(), __schema__.changes(pg_snapshot) TO __prefix__gate;
GRANT SELECT ON __schema__.live TO __prefix__gate;

-- The guard runs as whoever writes.
GRANT EXECUTE ON FUNCTION __schema__.guard_wide()
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT INSERT (issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value, key_thumbprint,
    client_cert, proof_key, device_id, network, claims, everyone, issued_before, compare, except_session_id,
    expires_at, reason, source, source_event_id, event_time)
  ON __schema__.revocations TO __prefix__revoker, __prefix__breakglass;
GRANT SELECT (id, issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value, key_thumbprint,
    client_cert, proof_key, device_id, network, claims, everyone, issued_before, compare, except_session_id,
    expires_at, reason, source, source_event_id, event_time, created_by, created_at)
  ON __schema__.revocations TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT DELETE, UPDATE (issued_before, expires_at, reason) ON __schema__.revocations TO __prefix__lifter;
