SET LOCAL lock_timeout = '2s';
SET LOCAL ROLE __prefix__owner;

-- As before, and of each row and tombstone the transaction that it is stamped with: a gate's cursor goes up to the
-- newest one that it was shown, not to the end of the snapshot (feed/state.ts says why).
DROP FUNCTION __schema__.changes(pg_snapshot, int);
CREATE FUNCTION __schema__.changes(cursor pg_snapshot, cap int)
RETURNS TABLE (op "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean, expires_s bigint,
               meta text, xid xid8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  upper_xid xid8 := pg_snapshot_xmax(cursor);
  open_xids xid8[] := ARRAY(SELECT pg_snapshot_xip(cursor));
BEGIN
  RETURN QUERY SELECT 'm'::"char", NULL::bigint, NULL::bytea, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    row_to_json(i)::text, NULL::xid8 FROM state() i;
  RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    NULL::text, t.chg_xid FROM tomb t WHERE t.chg_xid >= upper_xid LIMIT cap;
  RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text, l.chg_xid
    FROM live l WHERE l.chg_xid >= upper_xid LIMIT cap;
  IF open_xids <> '{}' THEN
    RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
      NULL::text, t.chg_xid FROM tomb t WHERE t.chg_xid = ANY (open_xids) LIMIT cap;
    RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text, l.chg_xid
      FROM live l WHERE l.chg_xid = ANY (open_xids) LIMIT cap;
  END IF;
END $$;

REVOKE ALL ON FUNCTION __schema__.changes(pg_snapshot, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION __schema__.changes(pg_snapshot, int) TO __prefix__gate;
