#!/bin/bash
# setup-regress.sh: provides the SQL scripts of PostgreSQL's own regression suite, of the major version
# given (17 without one), under $FLEXKEEP_TOOLS/regress<major>: from Debian's source package, which apt
# checks. Quick when all is there. Run by setup.sh; a folder that FLEXKEEP_REGRESS names is taken as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
major=17 suite=trixie dir=$FLEXKEEP_TOOLS/regress17

by_hand() {
  die "$*
What can't be had for you is to be provided by hand: export FLEXKEEP_REGRESS, the folder src/test/regress
of PostgreSQL $major's source, where the server's user may read it"
}

if [ -n "${FLEXKEEP_REGRESS:-}" ] && [ "$FLEXKEEP_REGRESS" != "$dir" ]; then
  [ -r "$FLEXKEEP_REGRESS/parallel_schedule" ] || by_hand "no parallel_schedule in FLEXKEEP_REGRESS=$FLEXKEEP_REGRESS"
  exit 0
fi
[ "$(cat "$dir/.complete" 2>/dev/null)" != "recipe 1" ] || exit 0
command -v apt-get >/dev/null || by_hand "the regression suite is missing, and there is no apt-get"

umask 022
say "setup: unpacking the regression suite of PostgreSQL $major ($suite) into $dir"
draft=$dir.draft
fetch=$(declare -p here major suite draft); fetch+='
set -euo pipefail
rm -rf "$draft"
APTROOT_SOURCE=yes "$here/aptroot.sh" "$suite" "$draft" "postgresql-$major"
python3 - "$draft" <<PY
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
test -s "$draft/parallel_schedule" && test -s "$draft/data/onek.data" && test -s "$draft/sql/test_setup.sql"'
retry 300 bash -c "$fetch" >&2 || by_hand "the source of PostgreSQL $major could not be had from $suite"
printf 'recipe 1\n' >"$draft/.complete"
rm -rf "$dir"
mv "$draft" "$dir"
