-- Keys: the predicates of a row as fixed-size bytes. The gate computes the same keys for a token (domain/revocation.ts)
-- and looks them up. A difference of one bit would let a revoked token pass, so test/store compares the two.
--
-- One key is a kind byte and the first 16 bytes of
--   SHA-256( kind ‖ int4(length of issuer) ‖ issuer ‖ int4(length of value) ‖ value ),  texts in UTF-8.
--
-- These are plain SQL functions without settings of their own: PostgreSQL then inlines them into the trigger that calls
-- them, which halves the cost of a row. They rely on the search_path that the calling trigger has set. No literal has a
-- backslash: standard_conforming_strings of the writer's session decides what that means.

CREATE OR REPLACE FUNCTION __schema__.key_of_bytes(kind int, issuer text, value bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT set_byte(decode('00', 'hex'), 0, kind) || substring(sha256(
    set_byte(decode('00', 'hex'), 0, kind)
    || int4send(octet_length(convert_to(coalesce(issuer, ''), 'UTF8'))) || convert_to(coalesce(issuer, ''), 'UTF8')
    || int4send(octet_length(value)) || value) FROM 1 FOR 16)
$$;

-- convert_to is not immutable, which is why keys cannot be a generated column.
CREATE OR REPLACE FUNCTION __schema__.key_of(kind int, issuer text, value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT __schema__.key_of_bytes(kind, issuer, convert_to(value, 'UTF8'))
$$;

-- A claim: the pointer, then the value with a letter for its type, since "1" and 1 are two values.
CREATE OR REPLACE FUNCTION __schema__.claim_key(issuer text, pointer text, value jsonb) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT __schema__.key_of_bytes(15, issuer,
    int4send(octet_length(convert_to(pointer, 'UTF8'))) || convert_to(pointer, 'UTF8')
    || convert_to(CASE jsonb_typeof(value)
         WHEN 'string' THEN 's' || (value #>> '{}')
         WHEN 'boolean' THEN 'b' || (value #>> '{}')
         ELSE 'n' || trunc(value::numeric)::bigint::text END, 'UTF8'))
$$;

-- A network: the last byte says how long the prefix is (IPv6 from 33 on), so that a gate learns from the keys alone
-- which prefixes of an address it has to look up.
CREATE OR REPLACE FUNCTION __schema__.network_key(network cidr) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT set_byte(
    __schema__.key_of_bytes(14, '',
      set_byte(decode('00', 'hex'), 0, masklen(network)) || substring(cidr_send(network) FROM 5)),
    16, masklen(network) + CASE family(network) WHEN 6 THEN 33 ELSE 0 END)
$$;

-- IPv4 written inside IPv6 is the same host.
CREATE OR REPLACE FUNCTION __schema__.normal_network(given cidr) RETURNS cidr
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN family(given) = 6 AND given <<= '::ffff:0.0.0.0/96'::cidr
    THEN network(set_masklen('0.0.0.0'::inet + (host(given)::inet - '::ffff:0.0.0.0'::inet), masklen(given) - 96))
    ELSE given END
$$;

-- Claims that a row can name: JSON pointers with texts, booleans or integers that a JSON reader keeps exactly. Returns what is
-- wrong with others, as one word and the pointer (4_rules.sql).
CREATE OR REPLACE FUNCTION __schema__.fault_in_claims(claims jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pointer text;
  value jsonb;
  pairs int := 0;
BEGIN
  IF claims IS NULL THEN RETURN NULL; END IF;
  IF jsonb_typeof(claims) <> 'object' THEN RETURN 'claims'; END IF;
  FOR pointer, value IN SELECT e.key, e.value FROM jsonb_each(claims) e LOOP
    pairs := pairs + 1;
    IF octet_length(pointer) > 256 THEN RETURN 'deep ' || pointer; END IF;
    IF pointer !~ '^(/([^~/]|~0|~1)*)+$' THEN RETURN 'pointer ' || pointer; END IF;
    CASE jsonb_typeof(value)
      WHEN 'string' THEN
        IF octet_length(value #>> '{}') > 1024 THEN RETURN 'text ' || pointer; END IF;
      WHEN 'number' THEN
        IF value::numeric % 1 <> 0 THEN RETURN 'fraction ' || pointer; END IF;
        IF abs(value::numeric) > 9007199254740991 THEN RETURN 'number ' || pointer; END IF;
      WHEN 'boolean' THEN NULL;
      ELSE RETURN 'type ' || pointer;
    END CASE;
  END LOOP;
  RETURN CASE WHEN pairs = 0 THEN 'none' WHEN pairs > 16 THEN 'many' END;
END $$;

-- For the CHECK. Without settings of its own, so that PostgreSQL inlines it.
CREATE OR REPLACE FUNCTION __schema__.usable_claims(claims jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT __schema__.fault_in_claims(claims) IS NULL
$$;
