-- All rights in one place. PostgreSQL lets every login execute a new function: that right is revoked first.
-- test/store/roles.test.ts checks for each role what it may and may not do.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA __schema__ FROM PUBLIC;

-- The gate reads the feed, reports on itself and purges.
GRANT SELECT ON __schema__.live, __schema__.tombs, __schema__.digest TO __prefix__gate;
GRANT EXECUTE ON FUNCTION __schema__.state(), __schema__.changes(pg_snapshot, int), __schema__.changes(pg_snapshot, int, bigint[]),
    __schema__.anchor(uuid), __schema__.held(uuid[]), __schema__.mac_key(),
    __schema__.beat(uuid, jsonb), __schema__.leave(uuid), __schema__.wanted(uuid), __schema__.wanted(uuid, pg_snapshot),
    __schema__.confirm(uuid, bigint[], float8[], int[]),
    __schema__.confirm(uuid, bigint[], xid8[], float8[], int[]), __schema__.canary(bigint)
  TO __prefix__gate;
GRANT EXECUTE ON FUNCTION __schema__.purge(int) TO __prefix__gate, __prefix__lifter;

-- Revokers add rows, lifters end them. Only the owner writes stamps, names an author or an id, or truncates.
GRANT INSERT (issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value, key_thumbprint,
    client_cert, proof_key, device_id, network, claims, everyone, issued_before, compare, except_session_id,
    expires_at, reason, source, source_event_id, event_time)
  ON __schema__.revocations TO __prefix__revoker, __prefix__breakglass;
GRANT SELECT (id, issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value, key_thumbprint,
    client_cert, proof_key, device_id, network, claims, everyone, issued_before, compare, except_session_id,
    expires_at, reason, source, source_event_id, event_time, created_by, created_at)
  ON __schema__.revocations TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT DELETE, UPDATE (issued_before, expires_at, reason) ON __schema__.revocations TO __prefix__lifter;

-- The guard and the CHECK of claims run with the rights of the login that writes.
GRANT EXECUTE ON FUNCTION __schema__.guard_wide(), __schema__.usable_claims(jsonb), __schema__.fault_in_claims(jsonb)
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;

-- What is revoked, in words. A view calls functions with the rights of the login that reads it.
GRANT SELECT ON __schema__.active, __schema__.history TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT EXECUTE ON FUNCTION __schema__.in_words(text), __schema__.target_of(__schema__.revocations), __schema__.predicates_of(__schema__.revocations),
    __schema__.kind_of(__schema__.revocations), __schema__.change_of(__schema__.revocations, __schema__.revocations),
    __schema__.demands(bytea, text, text, text, text)
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;

-- For receipts, and to find out whether a gate can match a row.
GRANT EXECUTE ON FUNCTION __schema__.expect_receipts(bigint), __schema__.receipts_of(bigint),
    __schema__.can_match(text, text[]), __schema__.nearest_issuer(text), __schema__.knows_pepper(text), __schema__.unmatched_of(bigint[])
  TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
GRANT SELECT ON __schema__.fleet, __schema__.canaries, __schema__.revocation_times TO __prefix__revoker, __prefix__lifter, __prefix__breakglass;
