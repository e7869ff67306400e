#!/bin/bash
# unpack-regress.sh MAJOR SUITE DIR: one try at unpacking the SQL scripts and data of PostgreSQL's
# regression suite, from Debian's source package, into DIR, whatever an earlier try left there.
set -euo pipefail
major=$1 suite=$2 dir=$3
rm -rf "$dir"
APTROOT_SOURCE=yes "$(dirname "$0")/aptroot.sh" "$suite" "$dir" "postgresql-$major"
python3 - "$dir" <<'PY'
import glob, os, sys, tarfile
folder = sys.argv[1]
[archive] = glob.glob(os.path.join(folder, "*.orig.tar.*"))
wanted = ("sql/", "data/", "parallel_schedule")
with tarfile.open(archive) as tar:
    for member in tar:
        inner = member.name.partition("/src/test/regress/")[2]
        if member.isfile() and inner.startswith(wanted) and ".." not in inner:
            path = os.path.join(folder, inner)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as file:
                file.write(source.read())
os.remove(archive)
PY
test -s "$dir/parallel_schedule" && test -s "$dir/data/onek.data" && test -s "$dir/sql/test_setup.sql"
printf '%s\n' "$major" >"$dir/major"
