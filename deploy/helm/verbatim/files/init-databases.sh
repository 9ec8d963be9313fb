#!/bin/bash
# Runs once, when the volume is empty: a role and a database for each service that owns one, closed to the other.
set -euo pipefail
for service in meetings insights; do
  variable="POSTGRES_PASSWORD_${service^^}"
  psql -v ON_ERROR_STOP=1 -v password="${!variable}" -v name="$service" <<-'SQL'
    CREATE ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
    CREATE DATABASE :"name" OWNER :"name";
    REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
