-- Rights are granted to group roles; logins become members of them. Roles belong to the whole server, so existing ones
-- are kept: another schema or an earlier attempt may have made them.
SET LOCAL lock_timeout = '2s';

DO $$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['__prefix__owner', '__prefix__gate', '__prefix__revoker',
                                   '__prefix__lifter', '__prefix__breakglass'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
    END IF;
  END LOOP;
  -- The migrating login must be able to act as the owner. From PostgreSQL 16 on, making a role grants only its
  -- administration, so that SET ROLE below would fail for a login without superuser rights.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    IF current_setting('server_version_num')::int >= 160000 THEN
      EXECUTE format('GRANT %I TO CURRENT_USER WITH SET TRUE, INHERIT TRUE', '__prefix__owner');
    ELSIF NOT pg_has_role(current_user, '__prefix__owner', 'MEMBER') THEN
      EXECUTE format('GRANT %I TO CURRENT_USER', '__prefix__owner');
    END IF;
  END IF;
END $$;

ALTER SCHEMA __schema__ OWNER TO __prefix__owner;
ALTER TABLE __schema__.migrations OWNER TO __prefix__owner;
REVOKE ALL ON SCHEMA __schema__ FROM PUBLIC;
GRANT USAGE ON SCHEMA __schema__
  TO __prefix__gate, __prefix__revoker, __prefix__lifter, __prefix__breakglass;

-- Everything from here on belongs to the owner role: SECURITY DEFINER functions run with its rights, not with those of
-- the login that migrated.
SET LOCAL ROLE __prefix__owner;
