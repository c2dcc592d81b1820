-- Takes the place of 0001_baseline/3_tables.sql for a database that the six migrations before 0.1.0 made: the same tables
-- in the end, with every row, receipt and tombstone kept. Stamps and the feed's identity stay as they are, so the cursors
-- of running gates go on being right and nothing is loaded anew. migrate() runs this for exactly those six migrations.

-- These constraints were added while their columns could only be null, so no row had to be looked at. A fresh database
-- has them checked; this reads the table once, and holds up neither readers nor writers.
ALTER TABLE __schema__.revocations
  VALIDATE CONSTRAINT revocations_token_hash_check,
  VALIDATE CONSTRAINT revocations_tenant_check,
  VALIDATE CONSTRAINT revocations_group_value_check,
  VALIDATE CONSTRAINT revocations_key_thumbprint_check,
  VALIDATE CONSTRAINT revocations_client_cert_check,
  VALIDATE CONSTRAINT revocations_proof_key_check,
  VALIDATE CONSTRAINT revocations_device_id_check,
  VALIDATE CONSTRAINT revocations_claims_check,
  VALIDATE CONSTRAINT revocations_except_session_id_check,
  VALIDATE CONSTRAINT revocations_compare_check,
  VALIDATE CONSTRAINT revocations_predicate;

-- Writers lock revocations before tomb. The other way round, a writer and this would wait for each other.
LOCK TABLE __schema__.revocations IN SHARE ROW EXCLUSIVE MODE;

-- There was one followed table, so every tombstone is of it. The default is for the rows that are there; a trigger that
-- forgot to say which table it is on must fail.
ALTER TABLE __schema__.tomb ADD COLUMN kind "char" NOT NULL DEFAULT 'r';
ALTER TABLE __schema__.tomb ALTER COLUMN kind DROP DEFAULT;

-- ident() and changes(pg_snapshot) were replaced by state() and changes(pg_snapshot, int), which now returns `kind` too.
DROP FUNCTION __schema__.changes(pg_snapshot), __schema__.changes(pg_snapshot, int), __schema__.ident();
