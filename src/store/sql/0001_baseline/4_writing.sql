-- Triggers that run when a row is written, in the order of their names:
--   a_prepare  row       of the table: refuses what is wrong (4_rules.sql), computes the keys, keeps the author
--   a_stamp    row       shared: stores the transaction and the place in the order of changes
--   b_guard_…  row       of the table: refuses rows that need a stronger role
--   c_announce statement writes tombstones for removed rows, and wakes the gates
--   c_entomb   row       shared: the same for changes that are replicated, which run no statement
--   d_renew    TRUNCATE  shared: makes every gate load anew
--   e_audit    statement shared: keeps copies of changed and deleted rows
--   f_warn_…   statement tells the writer what the statement has not done
-- A further followed table gets the shared triggers by name and brings its own a_prepare.
--
-- No setting of the writer's session may change what is stored or sent. So functions pin the search_path, literals have
-- no backslash, and a time or a float becomes text only where TimeZone and the like are pinned. test/store/settings.test.ts
-- tries every setting.

-- Computes a revocation's keys, and the other values that the writer may not choose. The ledger files the row under its
-- first key, so the most selective key comes first. Keys of the exchange (client certificate, network) come before keys
-- of the token: a row that is filed under a key of the token must depend on the token alone, or a gate could not
-- remember that a token is clean.
CREATE OR REPLACE FUNCTION __schema__.prepare_revocation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  outer_keys bytea := '';
  keys bytea := '';
  each_pointer text;
  each_value jsonb;
  each_text text;
  -- The first column with a fault, and a word for it.
  fault text := coalesce(
    'issuer ' || fault_in_text(NEW.issuer, 1024), 'subject ' || fault_in_text(NEW.subject, 1024),
    'session_id ' || fault_in_text(NEW.session_id, 1024), 'token_id ' || fault_in_text(NEW.token_id, 1024),
    'client_id ' || fault_in_text(NEW.client_id, 1024), 'tenant ' || fault_in_text(NEW.tenant, 1024),
    'group_value ' || fault_in_text(NEW.group_value, 1024), 'device_id ' || fault_in_text(NEW.device_id, 1024),
    'except_session_id ' || fault_in_text(NEW.except_session_id, 1024),
    CASE WHEN octet_length(NEW.token_hash) <> 32 THEN 'token_hash hash' END,
    'key_thumbprint ' || fault_in_thumbprint(NEW.key_thumbprint), 'client_cert ' || fault_in_thumbprint(NEW.client_cert),
    'proof_key ' || fault_in_thumbprint(NEW.proof_key),
    CASE WHEN NEW.claims IS NOT NULL THEN 'claims ' || fault_in_claims(NEW.claims) END,
    'issued_before ' || fault_in_time(NEW.issued_before), 'expires_at ' || fault_in_time(NEW.expires_at),
    'event_time ' || fault_in_time(NEW.event_time),
    CASE WHEN NEW.compare <> 'iat' THEN
      CASE WHEN NEW.compare <> 'auth_time' THEN 'compare compare' WHEN NEW.issued_before IS NULL THEN 'compare block' END
    WHEN NEW.compare IS NULL THEN 'compare null' END,
    'reason ' || fault_in_note(NEW.reason, 4096), 'source ' || fault_in_note(NEW.source, 1024),
    'source_event_id ' || fault_in_note(NEW.source_event_id, 1024),
    CASE WHEN NEW.everyone THEN NULL WHEN NEW.everyone IS NULL THEN 'everyone null'
      WHEN num_nonnulls(NEW.issuer, NEW.subject, NEW.session_id, NEW.token_id, NEW.token_hash, NEW.client_id, NEW.tenant,
        NEW.group_value, NEW.key_thumbprint, NEW.client_cert, NEW.proof_key, NEW.device_id, NEW.network, NEW.claims) = 0
      THEN CASE WHEN NEW.except_session_id IS NULL THEN 'everyone target' ELSE 'except_session_id spares' END END);
BEGIN
  IF fault IS NOT NULL AND may_not_stand(fault, to_jsonb(NEW), CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) END) THEN
    PERFORM refuse_row(fault, NEW);
  END IF;
  IF NEW.client_cert IS NOT NULL THEN outer_keys := outer_keys || key_of(11, '', NEW.client_cert); END IF;
  IF NEW.network IS NOT NULL THEN
    NEW.network := normal_network(NEW.network);
    outer_keys := outer_keys || network_key(NEW.network);
  END IF;
  IF NEW.token_id IS NOT NULL THEN keys := keys || key_of(1, NEW.issuer, NEW.token_id); END IF;
  IF NEW.token_hash IS NOT NULL THEN keys := keys || key_of_bytes(7, NEW.issuer, NEW.token_hash); END IF;
  IF NEW.session_id IS NOT NULL THEN keys := keys || key_of(2, NEW.issuer, NEW.session_id); END IF;
  IF NEW.proof_key IS NOT NULL THEN keys := keys || key_of(12, NEW.issuer, NEW.proof_key); END IF;
  IF NEW.device_id IS NOT NULL THEN keys := keys || key_of(13, NEW.issuer, NEW.device_id); END IF;
  IF NEW.subject IS NOT NULL THEN keys := keys || key_of(3, NEW.issuer, NEW.subject); END IF;
  IF NEW.claims IS NOT NULL THEN
    FOR each_pointer, each_value IN SELECT e.key, e.value FROM jsonb_each(NEW.claims) e ORDER BY e.key LOOP
      keys := keys || claim_key(NEW.issuer, each_pointer, each_value);
      IF TG_OP = 'INSERT' AND jsonb_typeof(each_value) = 'string' THEN
        each_text := each_value #>> '{}';
        fault := fault_in_text(each_text, 1024);
        IF fault = 'token' AND may_not_stand('claims token', to_jsonb(NEW), NULL) THEN PERFORM refuse_row('claims token', NEW); END IF;
        -- Not refused: where a token really has it, this is how it is named.
        IF fault = 'space' THEN
          RAISE WARNING 'the value of claim % begins or ends with white space', to_jsonb(left(each_pointer, 64))
            USING HINT = 'Lift the row and insert it without the white space, unless the tokens have it exactly so.';
        END IF;
      END IF;
      IF NOT EXISTS (SELECT FROM claim_pointers p WHERE p.pointer = each_pointer) THEN
        -- Each gate looks up every pointer for every token, so their number is bounded.
        IF (SELECT count(*) FROM claim_pointers) >= 64 THEN
          RAISE EXCEPTION 'the rows name 64 different claims already, which is the limit' USING ERRCODE = 'program_limit_exceeded',
            HINT = 'Name a claim that a row has named before, or revoke by subject, tenant or group: every gate looks up each of these claims for each token.';
        END IF;
        INSERT INTO claim_pointers (pointer) VALUES (each_pointer) ON CONFLICT DO NOTHING;
      END IF;
    END LOOP;
  END IF;
  IF NEW.client_id IS NOT NULL THEN keys := keys || key_of(4, NEW.issuer, NEW.client_id); END IF;
  IF NEW.group_value IS NOT NULL THEN keys := keys || key_of(9, NEW.issuer, NEW.group_value); END IF;
  IF NEW.tenant IS NOT NULL THEN keys := keys || key_of(8, NEW.issuer, NEW.tenant); END IF;
  IF NEW.key_thumbprint IS NOT NULL THEN keys := keys || key_of(10, NEW.issuer, NEW.key_thumbprint); END IF;
  -- Each key of the token contains the issuer, so the row needs a key for the issuer only when it has no other.
  IF keys = '' AND NEW.issuer IS NOT NULL THEN keys := key_of(5, NEW.issuer, ''); END IF;
  keys := outer_keys || keys;
  IF keys = '' THEN keys := key_of(6, '', ''); END IF;
  -- Bit 7 of the kind means that the principal must not have this key. These keys come last: a gate of a release that
  -- does not know the bit then denies too much, not too little.
  IF NEW.except_session_id IS NOT NULL THEN
    keys := keys || set_byte(key_of(2, NEW.issuer, NEW.except_session_id), 0, 130);
  END IF;
  NEW.keys := keys;
  NEW.key_version := 2;
  IF TG_OP = 'INSERT' THEN
    NEW.created_by := session_user;
    NEW.created_at := now();
  ELSE
    NEW.created_by := OLD.created_by;
    NEW.created_at := OLD.created_at;
    -- A cutoff that is moved here is in the clock of this server, so the issuer's skew applies, even if the first one
    -- was in the issuer's clock.
    IF NEW.issued_before IS DISTINCT FROM OLD.issued_before AND NEW.event_time IS NOT DISTINCT FROM OLD.event_time THEN
      NEW.event_time := NULL;
    END IF;
  END IF;
  IF NEW.issued_before IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.issued_before IS DISTINCT FROM OLD.issued_before) THEN
    -- A cutoff in the future would lock out people who sign in after the event; a block is made for that.
    IF NEW.issued_before > clock_timestamp() + (SELECT cutoff_skew FROM feed) THEN
      PERFORM refuse_row('issued_before future', NEW);
    END IF;
  END IF;
  RETURN NEW;
END $$;

-- Stamps the position of a change, for any followed table. A row that kept an old stamp would be in no gate's next
-- tick.
CREATE OR REPLACE FUNCTION __schema__.stamp() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  NEW.chg_xid := pg_current_xact_id();
  NEW.chg_seq := nextval('__schema__.change_seq');
  RETURN NEW;
END $$;

-- A row that hits everyone, a whole issuer or a large part of the network needs the break-glass role, and so does a
-- change that makes such a row hit more. A change that makes it hit less counts as lifting. Not SECURITY DEFINER, since
-- the function must see the role that writes. Not row security, which would refuse COPY to the revoker.
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
          HINT = 'Name also a subject, session, token or client, or write the row with a login that is a member of __prefix__breakglass.';
END $$;

-- Wakes the gates once per transaction, since PostgreSQL merges equal notifications. Skipped when the queue is filling
-- up, so that a session that does not read cannot make revoking fail; then the gates' ticks deliver the rows.
CREATE OR REPLACE FUNCTION __schema__.wake(message text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  IF pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify((SELECT channel FROM feed), message);
  END IF;
END $$;

-- The commit must be on disk first: a gate must not deny, or stop denying, because of a change that a crash then loses.
CREATE OR REPLACE FUNCTION __schema__.make_durable() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
END $$;

-- Writes tombstones for rows that were changed or deleted, for any followed table; the trigger passes the table's
-- letter.
CREATE OR REPLACE FUNCTION __schema__.announce() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  PERFORM make_durable();
  INSERT INTO tomb (row_id, keys, kind) SELECT id, keys, TG_ARGV[0]::"char" FROM old_rows;
  PERFORM wake('w');
  RETURN NULL;
END $$;

-- A subscriber of logical replication fires row triggers only. So that what it deletes has tombstones too, this trigger
-- fires for each row, and only in sessions that apply replicated changes (session_replication_role = replica).
CREATE OR REPLACE FUNCTION __schema__.entomb() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  INSERT INTO tomb (row_id, keys, kind) VALUES (OLD.id, OLD.keys, TG_ARGV[0]::"char");
  PERFORM wake('w');
  RETURN NULL;
END $$;

-- Sends new revocations with one predicate in the notification, so that a gate denies before it has asked. Other rows,
-- and rows that do not fit, only wake the gate. The body has key id and transaction, then for each row id, key, cutoff,
-- expiry and flags; the MAC comes before it; all in base64 (feed/payload.ts). At most 16 such notifications in a
-- transaction: they differ, so PostgreSQL does not merge them, and the whole server shares the queue.
CREATE OR REPLACE FUNCTION __schema__.announce_revocations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
DECLARE
  most CONSTANT int := 128;
  sent text := current_setting('dropgate.payloads', true);
  total int;
  simple int;
  mac mac_keys;
  body bytea;
BEGIN
  PERFORM make_durable();
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
      || set_byte(decode('00', 'hex'), 0, (issued_before IS NOT NULL)::int + (event_time IS NOT NULL)::int * 2
           + (compare = 'auth_time')::int * 4 + (expires_at IS NOT NULL)::int * 8), ''::bytea)
    INTO body FROM new_rows WHERE octet_length(keys) = 17;
  PERFORM set_config('dropgate.payloads', (sent::int + 1)::text, true);
  PERFORM wake('p' || translate(encode(sha256(mac.outer_pad || sha256(mac.inner_pad || body)) || body, 'base64'), chr(10), ''));
  IF simple < total THEN PERFORM wake('w'); END IF;
  RETURN NULL;
END $$;

-- TRUNCATE leaves no tombstones, so a tick could not tell which rows are gone: a new generation makes every gate load
-- anew.
CREATE OR REPLACE FUNCTION __schema__.renew() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp AS $$
BEGIN
  UPDATE feed SET generation = gen_random_uuid();
  PERFORM wake('r');
  RETURN NULL;
END $$;

-- Keeps a copy of each changed or deleted row, for any table with an id. Not of canaries, which revoke nothing.
CREATE OR REPLACE FUNCTION __schema__.keep_image() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = __schema__, pg_temp SET timezone = 'UTC' SET bytea_output = hex AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO audit (action, relation) VALUES (TG_OP, TG_TABLE_NAME);
  ELSE
    INSERT INTO audit (action, relation, row_id, image) SELECT TG_OP, TG_TABLE_NAME, o.id, to_jsonb(o) FROM old_rows o
      WHERE NOT EXISTS (SELECT FROM waits w WHERE w.canary AND w.row_id = o.id AND TG_TABLE_NAME = 'revocations');
  END IF;
  RETURN NULL;
END $$;

-- Tells a writer which tokens live again: an end without a cutoff is seldom meant. Not what purge() and canaries delete, which
-- work as the owner: no token lives again by it. Not SECURITY DEFINER, since the function must see the role that writes.
CREATE OR REPLACE FUNCTION __schema__.tell_revived() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids bigint[];
  shown text;
  lift CONSTANT text := 'To end a block so that tokens from before stay dead, run `dropgate lift ID`, or UPDATE it SET issued_before = now().';
BEGIN
  IF current_user = '__prefix__owner' THEN RETURN NULL; END IF;
  IF TG_OP = 'DELETE' THEN
    ids := ARRAY(SELECT o.id FROM old_rows o
      WHERE (o.expires_at IS NULL OR o.expires_at > clock_timestamp()) AND o.source IS DISTINCT FROM 'dropgate canary' ORDER BY o.id);
  ELSE
    ids := ARRAY(SELECT o.id FROM old_rows o JOIN new_rows n ON n.id = o.id
      WHERE (o.expires_at IS NULL OR o.expires_at > clock_timestamp()) AND (n.expires_at <= clock_timestamp()
        -- A clock that is a little behind, as that of the writer's machine, is no other time.
        OR n.issued_before < coalesce(o.issued_before, now() - interval '1 min')) ORDER BY o.id);
  END IF;
  IF ids = '{}' THEN RETURN NULL; END IF;
  shown := CASE cardinality(ids) WHEN 1 THEN 'revocation ' || ids[1]
    ELSE cardinality(ids) || ' revocations (' || array_to_string(ids[1:5], ', ') || CASE WHEN cardinality(ids) > 5 THEN ', ...' ELSE '' END || ')' END;
  IF TG_OP = 'DELETE' THEN
    RAISE NOTICE 'the deletion of % leaves no cutoff: tokens that were stolen before live again', shown
      USING HINT = lift || ' To take this back, insert what dropgate.history shows of it.';
  ELSE
    RAISE NOTICE 'the update of % leaves no cutoff at this moment: tokens that were stolen before live again', shown
      USING HINT = lift;
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER f_warn_revived_delete AFTER DELETE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.tell_revived();
CREATE OR REPLACE TRIGGER f_warn_revived_update AFTER UPDATE ON __schema__.revocations
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION __schema__.tell_revived();

-- These tables only grow, also for the owner: an audit that can be edited proves nothing, and a pointer that is deleted
-- makes rows unmatchable. docs/runbook.md says how to archive.
CREATE OR REPLACE FUNCTION __schema__.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'rows of the table % can be neither changed nor deleted', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege',
    HINT = 'Leave them: docs/runbook.md says under "The audit grows" how the owner moves old rows away.';
END $$;

-- Makes every trigger fire for the sessions that it is for: all, also those that apply replicated changes (their rows would
-- otherwise have no stamps, and no gate would see them), and c_entomb for those alone.
CREATE OR REPLACE FUNCTION __schema__.enable_triggers() RETURNS void
LANGUAGE plpgsql SET search_path = __schema__, pg_temp AS $$
BEGIN
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER a_prepare;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER a_stamp;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER b_guard_wide;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER c_announce_insert;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER c_announce_update;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER c_announce_delete;
  ALTER TABLE revocations ENABLE REPLICA TRIGGER c_entomb;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER d_renew;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER e_audit_update;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER e_audit_delete;
  ALTER TABLE revocations ENABLE ALWAYS TRIGGER e_audit_truncate;
  ALTER TABLE tomb ENABLE ALWAYS TRIGGER d_renew;
  ALTER TABLE audit ENABLE ALWAYS TRIGGER a_refuse_change;
  ALTER TABLE claim_pointers ENABLE ALWAYS TRIGGER a_refuse_change;
END $$;
