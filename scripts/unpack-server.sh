#!/bin/bash
# unpack-server.sh MAJOR SUITE DIR: one try at unpacking a PostgreSQL server into DIR, whatever an
# earlier try left there. Succeeds only if the server's programs run.
set -euo pipefail
major=$1 suite=$2 dir=$3
rm -rf "$dir"
"$(dirname "$0")/aptroot.sh" "$suite" "$dir" "postgresql-$major" "postgresql-client-$major"
for program in postgres initdb psql pg_dump pg_restore; do
  "$dir/usr/lib/postgresql/$major/bin/$program" --version >/dev/null
done
