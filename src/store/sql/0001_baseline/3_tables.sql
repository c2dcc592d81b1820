-- All tables. One feed serves all tables that gates follow: one sequence that orders changes (change_seq), one table of
-- removed rows (tomb), one row that identifies the feed (feed). A followed table has these columns:
--   id bigint        names the row, for its tombstones
--   keys bytea       the keys that the row is filed under; its own BEFORE trigger computes them
--   key_version      the version of that computation
--   chg_xid, chg_seq written by stamp() at every insert and update; an index on chg_xid
-- and a letter by which tombstones and changes() name the table: 'r' is revocations.

-- One row is the AND of its predicates. With issued_before it is a cutoff (it revokes tokens that were issued before);
-- without issued_before it is a block (it stands until it is lifted).
CREATE TABLE __schema__.revocations (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Predicates: the principals and peers that the row hits. An empty or overlong text is refused, since no accepted
  -- token could match it.
  issuer text CHECK (issuer <> '' AND octet_length(issuer) <= 1024),
  subject text CHECK (subject <> '' AND octet_length(subject) <= 1024),
  session_id text CHECK (session_id <> '' AND octet_length(session_id) <= 1024),
  token_id text CHECK (token_id <> '' AND octet_length(token_id) <= 1024),
  client_id text CHECK (client_id <> '' AND octet_length(client_id) <= 1024),
  everyone boolean NOT NULL DEFAULT false,
  token_hash bytea CHECK (octet_length(token_hash) = 32),
  tenant text CHECK (tenant <> '' AND octet_length(tenant) <= 1024),
  group_value text CHECK (group_value <> '' AND octet_length(group_value) <= 1024),
  -- Thumbprints are 32 bytes in base64url in their only valid spelling: another spelling would match nothing.
  key_thumbprint text CHECK (key_thumbprint ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$'),
  client_cert text CHECK (client_cert ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$'),
  proof_key text CHECK (proof_key ~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$'),
  device_id text CHECK (device_id <> '' AND octet_length(device_id) <= 1024),
  network cidr,
  claims jsonb CHECK (__schema__.usable_claims(claims)),
  -- Spares the tokens of this session; not a predicate, so it cannot stand alone.
  except_session_id text CHECK (except_session_id <> '' AND octet_length(except_session_id) <= 1024),
  -- Times: the start, the claim that it is compared with, the end, and the time of the event by the issuer's own clock.
  issued_before timestamptz,
  compare text NOT NULL DEFAULT 'iat',
  expires_at timestamptz,
  event_time timestamptz,
  -- For people; gates never read these.
  reason text CHECK (octet_length(reason) <= 4096),
  source text CHECK (octet_length(source) <= 1024),
  source_event_id text CHECK (octet_length(source_event_id) <= 1024),
  created_by text NOT NULL DEFAULT session_user,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- Columns for the feed. Triggers overwrite any value that a writer gives.
  keys bytea NOT NULL,
  key_version smallint NOT NULL,
  chg_xid xid8 NOT NULL,
  chg_seq bigint NOT NULL,
  -- compare is only for cutoffs: a block compares no time.
  CONSTRAINT revocations_compare_check
    CHECK (compare = 'iat' OR (compare = 'auth_time' AND issued_before IS NOT NULL)),
  -- A row without predicates hits everyone, so it must say so explicitly.
  CONSTRAINT revocations_predicate CHECK (
    everyone OR num_nonnulls(issuer, subject, session_id, token_id, token_hash, client_id, tenant, group_value,
      key_thumbprint, client_cert, proof_key, device_id, network, claims) > 0),
  -- The year bounds also refuse infinity, which would not fit the numbers that gates keep.
  CONSTRAINT revocations_times CHECK (
    issued_before BETWEEN '2000-01-01Z' AND '2200-01-01Z'
    AND expires_at BETWEEN '2000-01-01Z' AND '2200-01-01Z'
    AND event_time BETWEEN '2000-01-01Z' AND '2200-01-01Z')
);
CREATE INDEX revocations_changed ON __schema__.revocations (chg_xid);

-- One order for the changes of all tables. CACHE 1: with numbers reserved in advance, a later change of a row could get
-- the smaller number.
CREATE SEQUENCE __schema__.change_seq CACHE 1;

-- The rows that an update or a deletion removed: the row's id and the keys it was filed under. Without it, a gate would
-- go on denying by a row that is gone.
CREATE TABLE __schema__.tomb (
  row_id bigint NOT NULL,
  keys bytea NOT NULL,
  chg_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  chg_seq bigint NOT NULL DEFAULT nextval('__schema__.change_seq'),
  at timestamptz NOT NULL DEFAULT now(),
  -- The letter of the table that the row was in.
  kind "char" NOT NULL
);
CREATE INDEX tomb_changed ON __schema__.tomb (chg_xid);

-- One row: the identity of this feed.
CREATE TABLE __schema__.feed (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  -- A new generation makes every gate load everything anew.
  generation uuid NOT NULL DEFAULT gen_random_uuid(),
  -- Raised when gates of an older release can no longer read this feed.
  schema_version int NOT NULL DEFAULT 1,
  -- Random, since channels have no privileges: any login that knows the name can listen and notify.
  channel text NOT NULL DEFAULT 'dropgate_' || replace(gen_random_uuid()::text, '-', ''),
  -- Tombstones of transactions before this one were purged: a gate with an older cursor loads everything.
  tomb_floor xid8 NOT NULL DEFAULT '0',
  -- How far in the future a cutoff may lie by this server's clock: it comes from the clock of an issuer.
  cutoff_skew interval NOT NULL DEFAULT '5 s',
  -- The row that replaces the older cutoffs that purge() has deleted.
  purge_row bigint
);
INSERT INTO __schema__.feed DEFAULT VALUES;

-- Marks in the history of this database: a gate that finds an anchor here knows that all transactions which the anchor's
-- snapshot shows as ended are part of this history, whatever happened to the server since (feed/history.ts).
CREATE TABLE __schema__.anchors (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Made by the gate that asked, not by the server: a server put back with its memory repeats its random numbers.
  nonce uuid NOT NULL,
  snapshot pg_snapshot NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Where it was written: a dump takes the row to other servers and databases, whose transactions are others.
  database oid NOT NULL,
  system_id bigint NOT NULL
);
CREATE INDEX anchors_nonce ON __schema__.anchors (nonce);

-- Any login that can connect can send a notification. So those that carry rows are authenticated, by HMAC-SHA256 with
-- a key that only the owner reads and gates are handed by mac_key(). The pads save two loops for each notification.
CREATE TABLE __schema__.mac_keys (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key bytea NOT NULL CHECK (octet_length(key) = 32),
  inner_pad bytea NOT NULL,
  outer_pad bytea NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now()
);

-- Every JSON pointer that a row has ever named. A gate can match a claim only if it knows the pointer. A row commits
-- with its pointer or after it, so a snapshot that shows the row shows the pointer too.
CREATE TABLE __schema__.claim_pointers (
  pointer text PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now()
);

-- Copies of rows before they were changed or deleted, with the login and the time.
CREATE TABLE __schema__.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  by text NOT NULL DEFAULT session_user,
  action text NOT NULL CHECK (action IN ('UPDATE', 'DELETE', 'TRUNCATE')),
  relation text NOT NULL,
  row_id bigint,
  image jsonb
);
CREATE INDEX audit_row ON __schema__.audit (row_id);

-- One row for each gate, written by its heartbeat about twice a second; fillfactor keeps those updates within a page.
CREATE TABLE __schema__.gates (
  id uuid PRIMARY KEY,
  host text NOT NULL,
  pid int NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL,
  seen_at timestamptz NOT NULL,
  ready boolean NOT NULL,
  -- The gate has everything in force that is visible in this snapshot; null before the first load.
  cursor pg_snapshot,
  -- The time of the proof for that snapshot, by the clock of this server.
  fresh_at timestamptz,
  rows bigint NOT NULL,
  -- How long the gate may allow without a newer proof of freshness.
  allows interval NOT NULL,
  -- What the gate can match: issuer -> names of columns. '' stands for requests without a token.
  matches jsonb NOT NULL,
  -- Names of the gate's peppers.
  peppers text[] NOT NULL,
  -- Longest lifetime of a token that the gate accepts, clock tolerance included.
  token_lifetime interval NOT NULL,
  -- The policy that the gate decides by: name of the bundle -> revision. Empty before the first one, and for gates of
  -- earlier releases, which do not say it.
  policies jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- Rows whose writer waits for receipts.
CREATE TABLE __schema__.waits (
  row_id bigint PRIMARY KEY,
  chg_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- The row is a canary (6_fleet.sql): its writer is a gate, which only wants to know how fast rows come into force.
  canary boolean NOT NULL DEFAULT false
);

-- Proof that a gate has applied one revocation: when, and how many open exchanges it ended.
CREATE TABLE __schema__.receipts (
  row_id bigint NOT NULL,
  gate uuid NOT NULL,
  at timestamptz NOT NULL,
  cuts int NOT NULL,
  PRIMARY KEY (row_id, gate)
);

-- Ids of canaries (6_fleet.sql), beyond all that the identity column gives, so that users find the numbers of their own
-- rows without gaps; and below 2^53, which gates count exactly.
CREATE SEQUENCE __schema__.canary_seq START WITH 4503599627370496 MAXVALUE 9007199254740991;

-- Number of rows that no gate could match when they were inserted. A sequence, so that writers do not wait for each
-- other.
CREATE SEQUENCE __schema__.unmatched_seq;
