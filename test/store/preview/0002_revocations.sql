SET LOCAL ROLE __prefix__owner;

-- One row is the AND of its predicates. `issued_before` makes it a cutoff, without it it is a block.
CREATE TABLE __schema__.revocations (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  issuer text CHECK (issuer <> '' AND octet_length(issuer) <= 1024),
  subject text CHECK (subject <> '' AND octet_length(subject) <= 1024),
  session_id text CHECK (session_id <> '' AND octet_length(session_id) <= 1024),
  token_id text CHECK (token_id <> '' AND octet_length(token_id) <= 1024),
  client_id text CHECK (client_id <> '' AND octet_length(client_id) <= 1024),
  everyone boolean NOT NULL DEFAULT false,
  -- Predicates that this release cannot match: a row that nothing enforces must not look like one that is.
  token_hash bytea CHECK (token_hash IS NULL),
  tenant text CHECK (tenant IS NULL),
  group_value text CHECK (group_value IS NULL),
  key_thumbprint text CHECK (key_thumbprint IS NULL),
  client_cert text CHECK (client_cert IS NULL),
  proof_key text CHECK (proof_key IS NULL),
  device_id text CHECK (device_id IS NULL),
  network cidr CHECK (network IS NULL),
  claims jsonb CHECK (claims IS NULL),
  except_session_id text CHECK (except_session_id IS NULL),
  issued_before timestamptz,
  compare text NOT NULL DEFAULT 'iat' CHECK (compare = 'iat'),
  expires_at timestamptz,
  event_time timestamptz,
  reason text CHECK (octet_length(reason) <= 4096),
  source text CHECK (octet_length(source) <= 1024),
  source_event_id text CHECK (octet_length(source_event_id) <= 1024),
  created_by text NOT NULL DEFAULT session_user,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- Stamps: what the feed reads. The triggers below write them over whatever is given.
  keys bytea NOT NULL,
  key_version smallint NOT NULL,
  chg_xid xid8 NOT NULL,
  chg_seq bigint NOT NULL,
  CONSTRAINT revocations_predicate CHECK (
    everyone OR num_nonnulls(issuer, subject, session_id, token_id, client_id) > 0),
  -- The year bounds also refuse infinity.
  CONSTRAINT revocations_times CHECK (
    issued_before BETWEEN '2000-01-01Z' AND '2200-01-01Z'
    AND expires_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'
    AND event_time BETWEEN '2000-01-01Z' AND '2200-01-01Z')
);
CREATE INDEX revocations_changed ON __schema__.revocations (chg_xid);
CREATE SEQUENCE __schema__.change_seq CACHE 1;

-- What a change took away: the row's id and the keys it was filed under.
CREATE TABLE __schema__.tomb (
  row_id bigint NOT NULL,
  keys bytea NOT NULL,
  chg_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  chg_seq bigint NOT NULL DEFAULT nextval('__schema__.change_seq'),
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tomb_changed ON __schema__.tomb (chg_xid);

-- One row: what identifies this feed. The channel's name is random, since channels have no privileges.
CREATE TABLE __schema__.feed (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  generation uuid NOT NULL DEFAULT gen_random_uuid(),
  schema_version int NOT NULL DEFAULT 1,
  channel text NOT NULL DEFAULT 'dropgate_' || replace(gen_random_uuid()::text, '-', ''),
  -- Tombstones up to here have been purged: a cursor that is older needs a full load.
  tomb_floor xid8 NOT NULL DEFAULT '0'
);
INSERT INTO __schema__.feed DEFAULT VALUES;

-- One key: the kind, then 16 bytes of SHA-256 over the length-delimited (kind, issuer, value). The gate computes the same
-- for a token. convert_to is not immutable, so this cannot be a generated column.
CREATE FUNCTION __schema__.key_of(kind int, issuer text, value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT set_byte('\x00'::bytea, 0, kind) || substring(sha256(
    set_byte('\x00'::bytea, 0, kind)
    || int4send(octet_length(convert_to(coalesce(issuer, ''), 'UTF8'))) || convert_to(coalesce(issuer, ''), 'UTF8')
    || int4send(octet_length(convert_to(value, 'UTF8'))) || convert_to(value, 'UTF8')) FROM 1 FOR 16)
$$;

-- Stamps every row that is written, whatever the writer gave. Most selective predicate first: that is the key
-- the ledger files it under.
CREATE FUNCTION __schema__.stamp() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  keys bytea := '';
BEGIN
  IF NEW.token_id IS NOT NULL THEN keys := keys || key_of(1, NEW.issuer, NEW.token_id); END IF;
  IF NEW.session_id IS NOT NULL THEN keys := keys || key_of(2, NEW.issuer, NEW.session_id); END IF;
  IF NEW.subject IS NOT NULL THEN keys := keys || key_of(3, NEW.issuer, NEW.subject); END IF;
  IF NEW.client_id IS NOT NULL THEN keys := keys || key_of(4, NEW.issuer, NEW.client_id); END IF;
  -- The issuer is inside each key above, so it needs one of its own only where it stands alone.
  IF keys = '' AND NEW.issuer IS NOT NULL THEN keys := key_of(5, NEW.issuer, ''); END IF;
  IF keys = '' THEN keys := key_of(6, '', ''); END IF;
  NEW.keys := keys;
  NEW.key_version := 1;
  NEW.chg_xid := pg_current_xact_id();
  NEW.chg_seq := nextval('__schema__.change_seq');
  IF TG_OP = 'INSERT' THEN
    NEW.created_by := session_user;
    NEW.created_at := now();
  ELSE
    NEW.created_by := OLD.created_by;
    NEW.created_at := OLD.created_at;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER a_stamp BEFORE INSERT OR UPDATE ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.stamp();

-- A row that hits a whole issuer or everyone needs the break-glass role. Not a definer function: it must see
-- who is writing. Not row security: that would refuse COPY to the revoker.
CREATE FUNCTION __schema__.guard_wide() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (NEW.everyone OR NEW.issuer IS NOT NULL)
     AND num_nonnulls(NEW.subject, NEW.session_id, NEW.token_id, NEW.client_id) = 0
     AND NOT pg_has_role(current_user, '__prefix__breakglass', 'MEMBER') THEN
    RAISE EXCEPTION 'a revocation of a whole issuer or of everyone needs the role __prefix__breakglass'
      USING ERRCODE = 'insufficient_privilege',
            HINT = 'name a subject, session, token or client, or write the row as a member of __prefix__breakglass';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER b_guard_wide BEFORE INSERT ON __schema__.revocations
  FOR EACH ROW EXECUTE FUNCTION __schema__.guard_wide();

-- Wakes the gates once per transaction: identical notifications collapse. Skipped while the queue fills up, so
-- that a stuck listener somewhere can never make revoking fail; the gates' ticks deliver then.
CREATE FUNCTION __schema__.wake(message text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify((SELECT channel FROM feed), message);
  END IF;
END $$;

CREATE FUNCTION __schema__.announce() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  -- A gate must not deny, or stop denying, by a row that a crash then loses.
  IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF TG_OP IN ('UPDATE', 'DELETE') THEN
    INSERT INTO tomb (row_id, keys) SELECT id, keys FROM old_rows;
  END IF;
  PERFORM wake('w');
  RETURN NULL;
END $$;
CREATE TRIGGER c_announce_insert AFTER INSERT ON __schema__.revocations
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce();
CREATE TRIGGER c_announce_update AFTER UPDATE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce();
CREATE TRIGGER c_announce_delete AFTER DELETE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.announce();

-- TRUNCATE leaves no tombstones: a new generation makes every gate load anew.
CREATE FUNCTION __schema__.renew() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  UPDATE feed SET generation = gen_random_uuid();
  PERFORM wake('r');
  RETURN NULL;
END $$;
CREATE TRIGGER d_renew AFTER TRUNCATE ON __schema__.revocations
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.renew();
CREATE TRIGGER d_renew AFTER TRUNCATE ON __schema__.tomb
  FOR EACH STATEMENT EXECUTE FUNCTION __schema__.renew();

-- Also for sessions that play replication apply (session_replication_role = replica).
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER a_stamp;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER b_guard_wide;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER c_announce_insert;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER c_announce_update;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER c_announce_delete;
ALTER TABLE __schema__.revocations ENABLE ALWAYS TRIGGER d_renew;
ALTER TABLE __schema__.tomb ENABLE ALWAYS TRIGGER d_renew;
