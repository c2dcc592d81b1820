-- What is revoked, in words for people: `active` is what denies now, `history` is what was done to the table, in time. Both
-- show only columns that revokers and lifters may read, and no canaries, by which no caller is revoked.

-- A value as it stands in a sentence: quoted where a reader could not see where it ends. Without settings of its own, so that
-- PostgreSQL inlines it.
CREATE OR REPLACE FUNCTION __schema__.in_words(value text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN value ~ '^[!#-~]+$' THEN value ELSE to_jsonb(value)::text END
$$;

-- Whom a row hits: `subject alice at issuer https://idp.example and network 10.0.0.0/8, except session s1`. Not in the
-- language SQL, which would plan it anew for each row.
CREATE OR REPLACE FUNCTION __schema__.target_of(r __schema__.revocations) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = __schema__, pg_temp AS $$
DECLARE
  claims text;
  bearer text;
BEGIN
  IF r.claims IS NOT NULL THEN
    claims := (SELECT string_agg('claim ' || in_words(c.key) || ' = ' || c.value::text, ' and ' ORDER BY c.key)
      FROM jsonb_each(r.claims) c);
  END IF;
  bearer := concat_ws(' and ', 'token ' || in_words(r.token_id), 'token hash ' || encode(r.token_hash, 'hex'),
    'session ' || in_words(r.session_id), 'subject ' || in_words(r.subject), 'client ' || in_words(r.client_id),
    'group ' || in_words(r.group_value), 'tenant ' || in_words(r.tenant), 'device ' || in_words(r.device_id),
    'signing key ' || r.key_thumbprint, 'proof key ' || r.proof_key, claims);
  IF bearer = '' AND (r.issuer IS NOT NULL OR num_nonnulls(r.network, r.client_cert) = 0) THEN bearer := 'everyone'; END IF;
  RETURN concat_ws(' and ', nullif(bearer, '') || coalesce(' at issuer ' || in_words(r.issuer), ''), 'network ' || r.network,
      'client certificate ' || r.client_cert)
    || coalesce(', except session ' || in_words(r.except_session_id), '');
END $$;

-- The same for programs: column -> value.
CREATE OR REPLACE FUNCTION __schema__.predicates_of(r __schema__.revocations) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN jsonb_strip_nulls(jsonb_build_object('issuer', r.issuer, 'subject', r.subject, 'session_id', r.session_id,
    'token_id', r.token_id, 'token_hash', encode(r.token_hash, 'hex'), 'client_id', r.client_id, 'tenant', r.tenant,
    'group_value', r.group_value, 'key_thumbprint', r.key_thumbprint, 'client_cert', r.client_cert,
    'proof_key', r.proof_key, 'device_id', r.device_id, 'network', r.network, 'claims', r.claims,
    'everyone', nullif(r.everyone, false), 'except_session_id', r.except_session_id));
END $$;

CREATE OR REPLACE FUNCTION __schema__.kind_of(r __schema__.revocations) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN r.id IS NULL THEN NULL WHEN r.issued_before IS NULL THEN 'block' ELSE 'cutoff' END
$$;

-- What denies now. `unmatched`: no gate can match the row, so it denies no caller.
CREATE OR REPLACE VIEW __schema__.active AS
  SELECT r.id, __schema__.kind_of(r) AS kind, __schema__.target_of(r) AS target, r.issued_before, r.compare,
    r.created_at AS since, r.expires_at AS until, r.reason, r.source, r.created_by,
    NOT __schema__.can_match(r.issuer,
      __schema__.demands(r.token_hash, r.tenant, r.group_value, r.client_cert, r.device_id)) AS unmatched,
    __schema__.predicates_of(r) AS predicates
  FROM __schema__.revocations r
  WHERE (r.expires_at IS NULL OR r.expires_at > clock_timestamp())
    AND NOT EXISTS (SELECT FROM __schema__.canaries c WHERE c.row_id = r.id);

-- What an update has done to a row. `after` is null where a TRUNCATE has removed what it left.
CREATE OR REPLACE FUNCTION __schema__.change_of(before __schema__.revocations, after __schema__.revocations) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN after.id IS NULL THEN 'changed' ELSE coalesce(nullif(concat_ws(', ',
    CASE WHEN before.issued_before IS NOT DISTINCT FROM after.issued_before THEN NULL
      WHEN before.issued_before IS NULL THEN 'lifted'
      WHEN after.issued_before IS NULL THEN 'made a block'
      ELSE 'moved the cutoff' END,
    CASE WHEN before.expires_at IS DISTINCT FROM after.expires_at THEN 'changed the end' END,
    CASE WHEN before.reason IS DISTINCT FROM after.reason THEN 'changed the reason' END), ''), 'changed nothing') END
$$;

-- What was done, by whom and when. A row is as it was after that, a deleted one as it was before.
CREATE OR REPLACE VIEW __schema__.history AS
  WITH states AS (
    -- Every state of a row: its copies in the audit, each with what ended it, and what the table has. When a row was made
    -- tells it from a later one of the same id, as a TRUNCATE can give it.
    SELECT s.*, row_number() OVER w = 1 AS is_first, lead(s.r) OVER w AS next
    FROM (
      SELECT a.row_id, i.created_at, a.id AS n, a.at, a.by, a.action, i AS r
      FROM __schema__.audit a, jsonb_populate_record(NULL::__schema__.revocations, a.image) i
      WHERE a.relation = 'revocations' AND a.action <> 'TRUNCATE'
      UNION ALL
      SELECT r.id, r.created_at, NULL, NULL, NULL, NULL, r FROM __schema__.revocations r
      WHERE NOT EXISTS (SELECT FROM __schema__.canaries c WHERE c.row_id = r.id)) s
    WINDOW w AS (PARTITION BY s.row_id, s.created_at ORDER BY s.n))
  SELECT e.at, e.by, e.action, e.row_id, __schema__.target_of(e.r) AS target, __schema__.kind_of(e.r) AS kind,
    (e.r).issued_before, (e.r).expires_at AS until, (e.r).reason, (e.r).source, __schema__.predicates_of(e.r) AS predicates
  FROM (
    SELECT c.at, c.by, c.action, s.row_id, c.r
    FROM states s CROSS JOIN LATERAL (
      SELECT (s.r).created_at AS at, (s.r).created_by AS by, 'inserted a ' || __schema__.kind_of(s.r) AS action, s.r
        WHERE s.is_first
      UNION ALL
      SELECT s.at, s.by, __schema__.change_of(s.r, s.next), coalesce(s.next, s.r) WHERE s.action = 'UPDATE'
      UNION ALL
      SELECT s.at, s.by, 'deleted', s.r WHERE s.action = 'DELETE') c
    UNION ALL
    SELECT a.at, a.by, 'emptied the table', NULL, NULL
    FROM __schema__.audit a WHERE a.relation = 'revocations' AND a.action = 'TRUNCATE') e;
