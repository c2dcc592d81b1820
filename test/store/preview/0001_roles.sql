-- Group roles. They own or may do things; logins are made members of them. Existing ones are kept.
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
  -- The migrator must be able to act as the owner. From 16 on, making a role grants only its administration.
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
