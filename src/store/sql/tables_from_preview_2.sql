-- Takes the place of 0001_baseline/3_tables.sql for a database that the first form of the baseline made, or that
-- tables_from_preview_1.sql has brought there. Stamps and the feed's identity stay as they are: running gates go on.

-- Writers lock revocations before any other table. The other way round, a writer and this would wait for each other.
LOCK TABLE __schema__.revocations IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE __schema__.anchors (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  nonce uuid NOT NULL,
  snapshot pg_snapshot NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  database oid NOT NULL,
  system_id bigint NOT NULL
);
CREATE INDEX anchors_nonce ON __schema__.anchors (nonce);

ALTER TABLE __schema__.waits ADD COLUMN canary boolean NOT NULL DEFAULT false;

-- Its result has other columns now. Functions that call it look it up anew.
DROP FUNCTION IF EXISTS __schema__.state();

CREATE SEQUENCE __schema__.canary_seq START WITH 4503599627370496 MAXVALUE 9007199254740991;
