-- What is wrong with a row, in words. The CHECKs of the table stay the last line; they can only say their name. So the trigger
-- a_prepare looks first: `fault_in_text` and its like name the fault of a column by one word, cheaply, and `refuse_row` says
-- it with what to write. An error has the SQLSTATE and the name of the CHECK that it comes before.
--
-- Two faults have no CHECK, since a token could have such a value and rows of earlier releases may: `space`, and `token`.

-- These are without settings of their own, so that PostgreSQL inlines them.
CREATE OR REPLACE FUNCTION __schema__.white_space() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)
$$;

-- True where a text has a JWT in it.
CREATE OR REPLACE FUNCTION __schema__.has_token(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT strpos(value, 'eyJ') > 0 AND value ~ 'eyJ[A-Za-z0-9_-]{8,}[.][A-Za-z0-9_-]*[.]'
$$;

-- The fault of a text that a token is compared with.
CREATE OR REPLACE FUNCTION __schema__.fault_in_text(value text, most int) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN value IS NULL THEN NULL
    WHEN value = '' THEN 'empty'
    WHEN __schema__.has_token(value) OR starts_with(value, 'Bearer ') OR starts_with(value, 'bearer ') THEN 'token'
    WHEN octet_length(value) > most THEN 'long'
    -- The characters of white_space(); to trim a text costs more than all else here.
    WHEN ascii(value) IN (9, 10, 11, 12, 13, 32) OR ascii(right(value, 1)) IN (9, 10, 11, 12, 13, 32) THEN 'space' END
$$;

-- The fault of a text for people: it may be empty.
CREATE OR REPLACE FUNCTION __schema__.fault_in_note(value text, most int) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN __schema__.has_token(value) THEN 'token' WHEN octet_length(value) > most THEN 'long' END
$$;

-- The fault of a SHA-256 thumbprint: 32 bytes in base64url in their only valid spelling, since another one would match nothing.
CREATE OR REPLACE FUNCTION __schema__.fault_in_thumbprint(value text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN value !~ '^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$'
    THEN CASE WHEN __schema__.has_token(value) THEN 'token' ELSE 'thumbprint' END END
$$;

CREATE OR REPLACE FUNCTION __schema__.fault_in_time(value timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN NOT value BETWEEN '2000-01-01Z' AND '2200-01-01Z' THEN 'time' END
$$;

-- What to write in the place of a thumbprint: the same one in the right spelling, where that can be known.
CREATE OR REPLACE FUNCTION __schema__.how_to_write_thumbprint(col text, value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = __schema__, pg_temp AS $$
DECLARE
  digits text := lower(translate(value, ': ', ''));
  other text := translate(btrim(value, white_space() || '='), '+/', '-_');
BEGIN
  IF digits ~ '^[0-9a-f]{64}$' THEN other := rtrim(translate(encode(decode(digits, 'hex'), 'base64'), '+/', '-_'), '='); END IF;
  IF fault_in_thumbprint(other) IS NULL THEN RETURN concat('Write ', col, ' = ', quote_literal(other), '.'); END IF;
  IF digits ~ '^[0-9a-f]{40}$' OR other ~ '^[A-Za-z0-9_-]{27}$' THEN
    RETURN 'Take the SHA-256 thumbprint: this one has the length of SHA-1.';
  END IF;
  RETURN 'Write the 32 bytes of SHA-256 in base64url without padding, which are 43 characters and have one valid spelling, or as 64 hex digits to dropgate revoke.';
END $$;

-- Refuses a row. `fault` is the name of a column, a word and, for claims, the pointer.
CREATE OR REPLACE FUNCTION __schema__.refuse_row(fault text, r __schema__.revocations) RETURNS void
LANGUAGE plpgsql SET search_path = __schema__, pg_temp SET timezone = 'UTC' SET bytea_output = hex AS $$
DECLARE
  col text := split_part(fault, ' ', 1);
  word text := split_part(fault, ' ', 2);
  pointer text := substr(fault, length(col) + length(word) + 3);
  value text := to_jsonb(r) ->> col;
  trimmed text := btrim(value, white_space());
  -- The value in the message; its end is left out where it is long.
  shown text := CASE WHEN has_token(value) THEN 'a token' WHEN length(value) > 24 THEN to_jsonb(left(value, 24) || '...')::text
    ELSE to_jsonb(value)::text END;
  named text := CASE WHEN has_token(pointer) THEN 'a token'
    ELSE to_jsonb(left(pointer, 64) || CASE WHEN length(pointer) > 64 THEN '...' ELSE '' END)::text END;
  most text := CASE col WHEN 'reason' THEN '4096' ELSE '1024' END;
  logged CONSTANT text := ' The log of this server may have the statement with the token: delete it there.';
  message text;
  advice text;
BEGIN
  SELECT rule.says, rule.writes INTO message, advice FROM (VALUES
    ('empty', NULL, col || ' is empty',
      'Omit ' || col || ', or write what the token has: an empty text matches no token.'),
    ('long', NULL, concat(col, ' has ', octet_length(value), ' bytes, and at most ', most, ' fit: ', shown),
      'Write the value that the token has: gates accept no token with a longer one.'),
    ('long', 'reason', concat('reason has ', octet_length(value), ' bytes, and at most 4096 fit'), 'Shorten the reason to 4096 bytes.'),
    ('long', 'source', concat('source has ', octet_length(value), ' bytes, and at most 1024 fit'), 'Shorten the source to 1024 bytes.'),
    ('long', 'source_event_id', concat('source_event_id has ', octet_length(value), ' bytes, and at most 1024 fit'),
      'Shorten the id of the event to 1024 bytes.'),
    ('space', NULL, concat(col, ' begins or ends with white space: ', shown),
      concat('Write ', CASE WHEN trimmed = '' THEN 'what the token has' WHEN length(trimmed) > 80 THEN 'it without the white space'
        ELSE col || ' = ' || quote_literal(trimmed) END,
        '. Where the tokens really have it so, name it as a claim, which may begin and end with white space: claims = ',
        quote_literal(jsonb_build_object(coalesce((SELECT p.pointer FROM (VALUES ('issuer', '/iss'), ('subject', '/sub'),
          ('session_id', '/sid'), ('token_id', '/jti'), ('client_id', '/client_id')) p (name, pointer) WHERE p.name = col),
          '/POINTER'), CASE WHEN length(value) > 80 THEN 'VALUE' ELSE value END)::text), '.')),
    ('token', NULL, col || ' has what looks like a whole token',
      'Revoke a token with `dropgate revoke --token -`, which reads it from standard input and sends only its hash.' || logged),
    ('token', 'reason', 'reason has what looks like a whole token', 'Leave the token out of the reason.' || logged),
    ('token', 'source', 'source has what looks like a whole token', 'Leave the token out of the source.' || logged),
    ('token', 'source_event_id', 'source_event_id has what looks like a whole token', 'Write the id of the event alone.' || logged),
    ('hash', 'token_hash', concat('token_hash has ', octet_length(r.token_hash), ' bytes, not 32'),
      'Run `dropgate revoke --token -`, which computes the hash, or write HMAC-SHA-256 as decode(''64 hex digits'', ''hex'').'),
    ('thumbprint', NULL, concat(col, ' is not a SHA-256 thumbprint in base64url: ', shown), how_to_write_thumbprint(col, value)),
    ('claims', 'claims', 'claims is not an object but ' || CASE jsonb_typeof(r.claims) WHEN 'array' THEN 'an array'
      WHEN 'null' THEN 'the JSON null' ELSE 'a ' || jsonb_typeof(r.claims) END,
      'Write an object of JSON pointers and values, such as ''{"/role": "admin"}''.'),
    ('none', 'claims', 'claims names no claim', 'Write at least one claim, such as ''{"/role": "admin"}'', or omit claims.'),
    ('many', 'claims', 'claims names more than 16 claims', 'Write at most 16 claims in one row.'),
    ('pointer', 'claims', concat('claims has ', named, ', which is not a JSON pointer'), concat('Write a pointer to the claim, such as ',
      to_jsonb('/' || coalesce(nullif(CASE WHEN has_token(pointer) THEN '' ELSE replace(replace(left(pointer, 64), '~', '~0'), '/', '~1') END, ''), 'role')),
      ', where ~0 stands for ~ and ~1 for / in the name of a claim.')),
    ('deep', 'claims', concat('claims has a pointer of ', octet_length(pointer), ' bytes, and at most 256 fit: ', named),
      'Name another claim of the tokens that are meant.'),
    ('type', 'claims', concat('claim ', named, ' is ', coalesce(CASE jsonb_typeof(r.claims -> pointer) WHEN 'array' THEN 'an array'
      WHEN 'object' THEN 'an object' END, 'null')), concat('Write a text, a boolean or an integer for ', named,
      '. It matches a list of which one element is equal; insert one row for each value.')),
    ('text', 'claims', concat('claim ', named, ' has ', octet_length(r.claims ->> pointer), ' bytes, and at most 1024 fit'),
      'Write the value that the token has, or name another claim: a longer value cannot be matched.'),
    ('fraction', 'claims', concat('claim ', named, ' is ', left(r.claims ->> pointer, 24), ', which is no integer'),
      'Write an integer, or the number as a text where the token has a text.'),
    ('number', 'claims', concat('claim ', named, ' is ', left(r.claims ->> pointer, 24), ', which JSON readers do not keep exactly'),
      'Write an integer from -9007199254740991 to 9007199254740991, or the number as a text where the token has a text.'),
    ('token', 'claims', 'claims has what looks like a whole token',
      'Revoke a token with `dropgate revoke --token -`, which reads it from standard input and sends only its hash.' || logged),
    ('time', 'issued_before', concat('issued_before is ', value, ', not between the years 2000 and 2200'),
      'Write the time before which tokens were issued that are refused, such as now(), or omit issued_before for a block.'),
    ('time', 'expires_at', concat('expires_at is ', value, ', not between the years 2000 and 2200'),
      'Write when the revocation ends, or omit expires_at for one that stands until it is lifted.'),
    ('time', 'event_time', concat('event_time is ', value, ', not between the years 2000 and 2200'),
      'Write the time of the event by the clock of the issuer, or omit event_time where it is not known.'),
    ('future', 'issued_before', concat('issued_before is ', date_trunc('second', r.issued_before), ', which lies in the future: here it is ',
      date_trunc('second', clock_timestamp())),
      'Omit issued_before to insert a block, which stands until it is lifted, or write now() for a cutoff.'),
    ('null', 'compare', 'compare is null', 'Omit compare, or write ''iat'' or ''auth_time''.'),
    ('null', 'everyone', 'everyone is null', 'Omit everyone, or write true for a revocation that hits every token.'),
    ('compare', 'compare', concat('compare is ', shown, ', not iat or auth_time'),
      'Omit compare, or write ''auth_time'' to compare issued_before with the last sign-in.'),
    ('block', 'compare', 'compare is auth_time, but issued_before is not set',
      'Set issued_before to the time that sign-ins are compared with, or omit compare for a block.'),
    ('target', 'everyone', 'the revocation has no target', concat('Set at least one of subject, session_id, token_id, token_hash, ',
      'client_id, tenant, group_value, device_id, key_thumbprint, client_cert, proof_key, network, claims and issuer; only ',
      'everyone = true may stand alone.')),
    ('spares', 'except_session_id', 'the revocation has no target: except_session_id only spares a session',
      'Set also whom it hits, such as the subject whose other sessions shall end.')
  ) AS rule (for_word, for_col, says, writes)
  WHERE for_word = word AND coalesce(for_col, col) = col ORDER BY for_col NULLS LAST LIMIT 1;
  RAISE EXCEPTION USING MESSAGE = message, HINT = advice, SCHEMA = '__schema__', TABLE = 'revocations', COLUMN = col,
    ERRCODE = CASE word WHEN 'null' THEN 'not_null_violation' ELSE 'check_violation' END,
    CONSTRAINT = CASE WHEN word IN ('null', 'future', 'space', 'token') THEN '' WHEN word = 'time' THEN 'revocations_times'
      WHEN word IN ('target', 'spares') THEN 'revocations_predicate' ELSE 'revocations_' || col || '_check' END;
END $$;

-- Whether a fault refuses the row. What no CHECK refuses may stand where it stood before: an older release let it in, and it
-- must be possible to lift it; and where the row is a copy of one on another server, so that the copy does not stop.
CREATE OR REPLACE FUNCTION __schema__.may_not_stand(fault text, after jsonb, before jsonb) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT split_part(fault, ' ', 2) NOT IN ('space', 'token') OR (
    current_setting('session_replication_role') <> 'replica'
    AND (before IS NULL OR after -> split_part(fault, ' ', 1) IS DISTINCT FROM before -> split_part(fault, ' ', 1)))
$$;
