-- Takes the place of 0001_baseline/3_tables.sql for a database that the second form of the baseline made, or that
-- tables_from_preview_2.sql has brought there. Stamps and the feed's identity stay as they are: running gates go on.

-- Writers lock revocations before any other table. The other way round, a writer and this would wait for each other.
LOCK TABLE __schema__.revocations IN SHARE ROW EXCLUSIVE MODE;

-- Gates of earlier releases do not say it, and the table of gates is written twice a second: the default is theirs.
ALTER TABLE __schema__.gates ADD COLUMN policies jsonb NOT NULL DEFAULT '{}';

CREATE INDEX audit_row ON __schema__.audit (row_id);
