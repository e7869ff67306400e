#!/bin/bash
# unpack-server.sh MAJOR SUITE DIR: one try at unpacking a PostgreSQL server into DIR, whatever an
# earlier try left there. Succeeds only if the server's programs run.
set -euo pipefail
major=$1 suite=$2 dir=$3
rm -rf "$dir"
"$(dirname "$0")/aptroot.sh" "$suite" "$dir" "postgresql-$major" "postgresql-client-$major"
# More than half of it is for compiling queries, for Perl, and for people. A server without the
# compiler's library runs without it.
rm -rf "$dir"/usr/share/{doc,info,locale,man,perl,perl5} "$dir"/usr/lib/postgresql/*/lib/bitcode \
  "$dir"/usr/lib/postgresql/*/lib/llvmjit*.so "$dir"/usr/lib/llvm-*
find "$dir/usr/lib" \( -name 'libLLVM*' -o -name 'libz3.so*' \) -delete
find "$dir/usr/lib" -type d \( -name perl -o -name perl5 -o -name perl-base \) -prune -exec rm -rf {} +
for program in postgres initdb psql pg_dump pg_restore; do
  "$dir/usr/lib/postgresql/$major/bin/$program" --version >/dev/null
done
