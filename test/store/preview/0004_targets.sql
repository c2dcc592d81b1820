SET LOCAL lock_timeout = '2s';
SET LOCAL ROLE __prefix__owner;

-- Claims that a row can name: JSON pointers with texts, booleans or integers that a JSON reader keeps exactly.
CREATE FUNCTION __schema__.usable_claims(claims jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pointer text;
  value jsonb;
  pairs int := 0;
BEGIN
  IF claims IS NULL THEN RETURN true; END IF;
  IF jsonb_typeof(claims) <> 'object' THEN RETURN false; END IF;
  FOR pointer, value IN SELECT e.key, e.value FROM jsonb_each(claims) e LOOP
    pairs := pairs + 1;
    IF octet_length(pointer) > 256 OR pointer !~ '^(/([^~/]|~0|~1)*)+$' THEN RETURN false; END IF;
    CASE jsonb_typeof(value)
      WHEN 'string' THEN
        IF octet_length(value #>> '{}') > 1024 THEN RETURN false; END IF;
      WHEN 'number' THEN
        IF value::numeric % 1 <> 0 OR abs(value::numeric) > 9007199254740991 THEN RETURN false; END IF;
      WHEN 'boolean' THEN NULL;
      ELSE RETURN false;
    END CASE;
  END LOOP;
  RETURN pairs BETWEEN 1 AND 16;
END $$;

-- The columns have been null so far, so no row needs to be looked at. Thumbprints are 32 bytes in base64url, spelled
-- the one way there is: another spelling would match nothing.
ALTER TABLE __schema__.revocations
  DROP CONSTRAINT revocations_token_hash_check,
  DROP CONSTRAINT revocations_tenant_check,
  DROP CONSTRAINT revocations_group_value_check,
  DROP CONSTRAINT revocations_key_thumbprint_check,
  DROP CONSTRAINT revocations_client_cert_check,
  DROP CONSTRAINT revocations_proof_key_check,
  DROP CONSTRAINT revocations_device_id_check,
  DROP CONSTRAINT revocations_network_check,
  DROP CONSTRAINT revocations_claims_check,
  DROP CONSTRAINT revocations_except_session_id_check,
  DROP CONSTRAINT revocations_compare_check,
  DROP CONSTRAINT revocations_predicate,
  ADD CONSTRAINT revocations_token_hash_check CHECK (octet_length(token_hash) = 32) NOT VALID,
  ADD CONSTRAINT revocations_tenant_check CHECK (tenant <> '' AND octet_length(tenant) <= 1024) NOT VALID,
  ADD CONSTRAINT revocations_group_value_check
    CHECK (group_value <> '' AND octet_length(group_value) <= 1024) NOT VALID,
  ADD CONSTRAINT revocations_key_thumbprint_check
    CHECK (key_thumbprint ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$') NOT VALID,
  ADD CONSTRAINT revocations_client_cert_check
    CHECK (client_cert ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$') NOT VALID,
  ADD CONSTRAINT revocations_proof_key_check
    CHECK (proof_key ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$') NOT VALID,
  ADD CONSTRAINT revocations_device_id_check
    CHECK (device_id <> '' AND octet_length(device_id) <= 1024) NOT VALID,
  ADD CONSTRAINT revocations_claims_check CHECK (__schema__.usable_claims(claims)) NOT VALID,
  ADD CONSTRAINT revocations_except_session_id_check
    CHECK (except_session_id <> '' AND octet_length(except_session_id) <= 1024) NOT VALID,
  ADD CONSTRAINT revocations_compare_check
    CHECK (compare = 'iat' OR (compare = 'auth_time' AND issued_before IS NOT NULL)) NOT VALID,
  ADD CONSTRAINT revocations_predicate CHECK (
    everyone OR num_nonnulls(issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value,
      key_thumbprint, client_cert, proof_key, device_id, network, claims) > 0) NOT VALID;

-- How far ahead of this clock a cutoff may lie: it comes from the clock of an issuer.
ALTER TABLE __schema__.feed ADD COLUMN cutoff_skew interval NOT NULL DEFAULT '5 s';

CREATE FUNCTION __schema__.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'rows are only ever added to %', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- Every pointer that a row has ever named. A gate can match a claim only if it knows to look at it; a row commits
-- with its pointer or after it, so whoever sees the row in a snapshot sees the pointer in the same one.
CREATE TABLE __schema__.claim_pointers (
  pointer text PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER a_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON __schema__.claim_pointers
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.refuse_change();

CREATE FUNCTION __schema__.key_of_bytes(kind int, issuer text, value bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT set_byte('\x00'::bytea, 0, kind) || substring(sha256(
    set_byte('\x00'::bytea, 0, kind)
    || int4send(octet_length(convert_to(coalesce(issuer, ''), 'UTF8'))) || convert_to(coalesce(issuer, ''), 'UTF8')
    || int4send(octet_length(value)) || value) FROM 1 FOR 16)
$$;

-- The pointer, then the value with its type: "1" and 1 are two values.
CREATE FUNCTION __schema__.claim_key(issuer text, pointer text, value jsonb) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = __schema__, pg_temp AS $$
  SELECT key_of_bytes(15, issuer,
    int4send(octet_length(convert_to(pointer, 'UTF8'))) || convert_to(pointer, 'UTF8')
    || convert_to(CASE jsonb_typeof(value)
         WHEN 'string' THEN 's' || (value #>> '{}')
         WHEN 'boolean' THEN 'b' || (value #>> '{}')
         ELSE 'n' || trunc(value::numeric)::bigint::text END, 'UTF8'))
$$;

-- IPv4 written inside IPv6 is the same host.
CREATE FUNCTION __schema__.normal_network(given cidr) RETURNS cidr
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN family(given) = 6 AND given <<= '::ffff:0.0.0.0/96'::cidr
    THEN network(set_masklen('0.0.0.0'::inet + (host(given)::inet - '::ffff:0.0.0.0'::inet), masklen(given) - 96))
    ELSE given END
$$;

-- The last byte says how long the prefix is (IPv6 from 33 on), so that a gate learns from the key alone which prefixes
-- of an address it has to look up.
CREATE FUNCTION __schema__.network_key(network cidr) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = __schema__, pg_temp AS $$
  SELECT set_byte(
    key_of_bytes(14, '', set_byte('\x00'::bytea, 0, masklen(network)) || substring(cidr_send(network) FROM 5)),
    16, masklen(network) + CASE family(network) WHEN 6 THEN 33 ELSE 0 END)
$$;

-- Stamps every row that is written, whatever the writer gave. The first key is the one the ledger files the row
-- under. What belongs to the exchange and not to its token (client certificate, network) comes first: a row filed
-- under a key of the token must be decided by the token alone, or a gate could not remember that a token is clean.
CREATE OR REPLACE FUNCTION __schema__.stamp() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  outer_keys bytea := '';
  keys bytea := '';
  each_pointer text;
  each_value jsonb;
BEGIN
  IF NEW.network IS NOT NULL THEN NEW.network := normal_network(NEW.network); END IF;
  IF NEW.client_cert IS NOT NULL THEN outer_keys := outer_keys || key_of(11, '', NEW.client_cert); END IF;
  IF NEW.network IS NOT NULL THEN outer_keys := outer_keys || network_key(NEW.network); END IF;
  IF NEW.token_id IS NOT NULL THEN keys := keys || key_of(1, NEW.issuer, NEW.token_id); END IF;
  IF NEW.token_hash IS NOT NULL THEN keys := keys || key_of_bytes(7, NEW.issuer, NEW.token_hash); END IF;
  IF NEW.session_id IS NOT NULL THEN keys := keys || key_of(2, NEW.issuer, NEW.session_id); END IF;
  IF NEW.proof_key IS NOT NULL THEN keys := keys || key_of(12, NEW.issuer, NEW.proof_key); END IF;
  IF NEW.device_id IS NOT NULL THEN keys := keys || key_of(13, NEW.issuer, NEW.device_id); END IF;
  IF NEW.subject IS NOT NULL THEN keys := keys || key_of(3, NEW.issuer, NEW.subject); END IF;
  -- Unusable claims are refused by their CHECK, after this.
  IF NEW.claims IS NOT NULL AND usable_claims(NEW.claims) THEN
    FOR each_pointer, each_value IN SELECT e.key, e.value FROM jsonb_each(NEW.claims) e ORDER BY e.key LOOP
      keys := keys || claim_key(NEW.issuer, each_pointer, each_value);
      IF NOT EXISTS (SELECT FROM claim_pointers p WHERE p.pointer = each_pointer) THEN
        -- What each gate looks up for each token stays bounded.
        IF (SELECT count(*) FROM claim_pointers) >= 64 THEN
          RAISE EXCEPTION 'rows name 64 different claims already' USING ERRCODE = 'program_limit_exceeded',
            HINT = 'revoke by one of the claims in claim_pointers, or by subject, tenant or group';
        END IF;
        INSERT INTO claim_pointers (pointer) VALUES (each_pointer) ON CONFLICT DO NOTHING;
      END IF;
    END LOOP;
  END IF;
  IF NEW.client_id IS NOT NULL THEN keys := keys || key_of(4, NEW.issuer, NEW.client_id); END IF;
  IF NEW.group_value IS NOT NULL THEN keys := keys || key_of(9, NEW.issuer, NEW.group_value); END IF;
  IF NEW.tenant IS NOT NULL THEN keys := keys || key_of(8, NEW.issuer, NEW.tenant); END IF;
  IF NEW.key_thumbprint IS NOT NULL THEN keys := keys || key_of(10, NEW.issuer, NEW.key_thumbprint); END IF;
  -- The issuer is inside each key of the token, so it needs one of its own only where there is none.
  IF keys = '' AND NEW.issuer IS NOT NULL THEN keys := key_of(5, NEW.issuer, ''); END IF;
  keys := outer_keys || keys;
  IF keys = '' THEN keys := key_of(6, '', ''); END IF;
  -- Bit 7 of the kind: must not be held. Last, so that a gate which drops it denies more, not less.
  IF NEW.except_session_id IS NOT NULL THEN
    keys := keys || set_byte(key_of(2, NEW.issuer, NEW.except_session_id), 0, 130);
  END IF;
  NEW.keys := keys;
  NEW.key_version := 2;
  NEW.chg_xid := pg_current_xact_id();
  NEW.chg_seq := nextval('__schema__.change_seq');
  IF TG_OP = 'INSERT' THEN
    NEW.created_by := session_user;
    NEW.created_at := now();
  ELSE
    NEW.created_by := OLD.created_by;
    NEW.created_at := OLD.created_at;
    -- A cutoff that is moved here is of this clock and gets the issuer's skew, whatever clock the first one was of.
    IF NEW.issued_before IS DISTINCT FROM OLD.issued_before AND NEW.event_time IS NOT DISTINCT FROM OLD.event_time THEN
      NEW.event_time := NULL;
    END IF;
  END IF;
  IF NEW.issued_before IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.issued_before IS DISTINCT FROM OLD.issued_before) THEN
    -- It would lock people out who sign in after the event: that is what a block is for.
    IF NEW.issued_before > clock_timestamp() + (SELECT cutoff_skew FROM feed) THEN
      RAISE EXCEPTION 'issued_before lies in the future' USING ERRCODE = 'check_violation',
        HINT = 'leave it out for a block, which stands until it is lifted';
    END IF;
  END IF;
  RETURN NEW;
END $$;

-- A row that hits everyone, a whole issuer or a large part of the network needs the break-glass role, and so does
-- making such a row bite harder. Easing one is lifting. Not a definer function: it must see who is writing.
CREATE OR REPLACE FUNCTION __schema__.guard_wide() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF num_nonnulls(NEW.subject, NEW.session_id, NEW.token_id, NEW.token_hash, NEW.client_id, NEW.tenant,
       NEW.group_value, NEW.key_thumbprint, NEW.client_cert, NEW.proof_key, NEW.device_id, NEW.claims) > 0
     OR masklen(NEW.network) >= (CASE family(NEW.network) WHEN 4 THEN 8 ELSE 16 END)
     -- A row without any predicate is refused by its CHECK.
     OR (NEW.everyone IS NOT TRUE AND NEW.issuer IS NULL AND NEW.network IS NULL)
     OR pg_has_role(current_user, '__prefix__breakglass', 'MEMBER')
     OR current_user = '__prefix__owner' THEN
    RETURN NEW;
  END IF;
  IF TG_OP = 'UPDATE' THEN
    IF (NEW.issued_before IS NOT DISTINCT FROM OLD.issued_before
        OR NEW.issued_before <= coalesce(OLD.issued_before, 'infinity'))
       AND (NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at
            OR NEW.expires_at <= coalesce(OLD.expires_at, 'infinity')) THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION 'a revocation of a whole issuer, of everyone or of networks wider than /8 (IPv6 /16) needs the role __prefix__breakglass'
    USING ERRCODE = 'insufficient_privilege',
          HINT = 'name a subject, session, token or client, or write the row as a member of __prefix__breakglass';
END $$;
DROP TRIGGER b_guard_wide ON __schema__.revocations;
CREATE TRIGGER b_guard_wide BEFORE INSERT OR UPDATE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.guard_wide();
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER b_guard_wide;

-- What rows were before they were changed or deleted, by whom and when.
CREATE TABLE __schema__.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  by text NOT NULL DEFAULT session_user,
  action text NOT NULL CHECK (action IN ('UPDATE', 'DELETE', 'TRUNCATE')),
  relation text NOT NULL,
  row_id bigint,
  image jsonb
);
CREATE TRIGGER a_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON __schema__.audit
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.refuse_change();

CREATE FUNCTION __schema__.keep_image() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO audit (action, relation) VALUES (TG_OP, TG_TABLE_NAME);
  ELSE
    INSERT INTO audit (action, relation, row_id, image) SELECT TG_OP, TG_TABLE_NAME, o.id, to_jsonb(o) FROM old_rows o;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER e_audit_update AFTER UPDATE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
CREATE TRIGGER e_audit_delete AFTER DELETE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
CREATE TRIGGER e_audit_truncate AFTER TRUNCATE ON __schema__.revocations
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.keep_image();
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER e_audit_update;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER e_audit_delete;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER e_audit_truncate;
ALTER TABLE __schema__.audit ENABLE ALWAYS TRIGGER a_refuse_change;
ALTER TABLE __schema__.claim_pointers ENABLE ALWAYS TRIGGER a_refuse_change;

CREATE OR REPLACE VIEW __schema__.live AS
  SELECT id, keys,
    ceil(extract(epoch FROM issued_before) * 1000000)::bigint AS cutoff_us,
    event_time IS NOT NULL AS exact,
    ceil(extract(epoch FROM expires_at))::bigint AS expires_s,
    chg_xid,
    compare = 'auth_time' AS auth_time
  FROM __schema__.revocations;

-- As before, and which claims rows name, in the same snapshot.
DROP FUNCTION __schema__.ident();
CREATE FUNCTION __schema__.ident(
  OUT snapshot text, OUT generation text, OUT schema_version int, OUT channel text, OUT tomb_floor text,
  OUT system_id text, OUT timeline text, OUT standby boolean, OUT clock_ms float8, OUT pointers text[])
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
END $$;

DROP FUNCTION __schema__.changes(pg_snapshot);
CREATE FUNCTION __schema__.changes(cursor pg_snapshot)
RETURNS TABLE (op "char", id bigint, keys bytea, cutoff_us bigint, exact boolean, auth_time boolean, expires_s bigint,
               meta text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = __schema__, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  upper_xid xid8 := pg_snapshot_xmax(cursor);
  open_xids xid8[] := ARRAY(SELECT pg_snapshot_xip(cursor));
BEGIN
  RETURN QUERY SELECT 'm'::"char", NULL::bigint, NULL::bytea, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    row_to_json(i)::text FROM ident() i;
  RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
    NULL::text FROM tomb t WHERE t.chg_xid >= upper_xid;
  RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text
    FROM live l WHERE l.chg_xid >= upper_xid;
  IF open_xids <> '{}' THEN
    RETURN QUERY SELECT 't'::"char", t.row_id, t.keys, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint,
      NULL::text FROM tomb t WHERE t.chg_xid = ANY (open_xids);
    RETURN QUERY SELECT 'r'::"char", l.id, l.keys, l.cutoff_us, l.exact, l.auth_time, l.expires_s, NULL::text
      FROM live l WHERE l.chg_xid = ANY (open_xids);
  END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA __schema__ FROM PUBLIC;
GRANT EXECUTE ON FUNCTION __schema__.ident(), __schema__.changes(pg_snapshot) TO __prefix__gate;
-- A CHECK runs as whoever writes.
GRANT EXECUTE ON FUNCTION __schema__.usable_claims(jsonb)
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
