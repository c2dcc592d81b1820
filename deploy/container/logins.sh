#!/bin/sh
# Makes the database and the logins, once, when the volume of PostgreSQL is empty: the image runs it as the superuser.
# `migrator` makes the two group roles that it will use in its migrations, so that the other logins can be members now.
# psql reads the passwords itself: in its arguments every user of the machine could see them. And no log has them, whatever
# fails.
set -eu
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username=postgres <<'SQL'
\set migrator `cat /run/secrets/migrator-password`
\set gate `cat /run/secrets/gate-password`
\set ops `cat /run/secrets/ops-password`
SET log_statement = none;
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;
CREATE ROLE migrator LOGIN CREATEROLE PASSWORD :'migrator';
CREATE ROLE gate LOGIN PASSWORD :'gate';
CREATE ROLE ops LOGIN PASSWORD :'ops';
CREATE DATABASE dropgate OWNER migrator;
SET ROLE migrator;
CREATE ROLE dropgate_gate NOLOGIN;
CREATE ROLE dropgate_revoker NOLOGIN;
CREATE ROLE dropgate_lifter NOLOGIN;
GRANT dropgate_gate TO gate;
GRANT dropgate_revoker, dropgate_lifter TO ops;
SQL
