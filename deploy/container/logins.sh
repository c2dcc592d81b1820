#!/bin/sh
# Makes the database and the logins, once, when the volume of PostgreSQL is empty: the image runs it as the superuser.
# `migrator` makes the two group roles that it will use in its migrations, so that the other logins can be members now.
set -eu
secret() { cat "/run/secrets/$1-password"; }
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username=postgres \
    --set=migrator="$(secret migrator)" --set=gate="$(secret gate)" --set=ops="$(secret ops)" <<'SQL'
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
