#!/bin/bash
# setup-regress.sh: provides the SQL scripts of PostgreSQL's own regression suite under
# $FLEXKEEP_TOOLS/regress, of the newest major version whose source Debian has just now: at a point
# release a mirror may lack one for days. The file `major` there says which. Quick when all is there.
# Run by setup.sh; a folder that FLEXKEEP_REGRESS names is taken as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
dir=$FLEXKEEP_TOOLS/regress
# MAJOR:SUITE, of servers that setup.sh provides.
sources=(18:forky 18:sid 17:trixie 15:bookworm)

by_hand() {
  die "$*
What can't be had for you is to be provided by hand: export FLEXKEEP_REGRESS, a copy of the folder
src/test/regress of PostgreSQL's source, where the server's user may read it, with a file named
major that holds the major version: 15, 17 or 18"
}

if [ -n "${FLEXKEEP_REGRESS:-}" ] && [ "$FLEXKEEP_REGRESS" != "$dir" ]; then
  [ -r "$FLEXKEEP_REGRESS/parallel_schedule" ] || by_hand "no parallel_schedule in FLEXKEEP_REGRESS=$FLEXKEEP_REGRESS"
  [ -r "$FLEXKEEP_REGRESS/major" ] || by_hand "no file major in FLEXKEEP_REGRESS=$FLEXKEEP_REGRESS"
  exit 0
fi
[ "$(cat "$dir/.complete" 2>/dev/null)" != "recipe 2" ] || exit 0
command -v apt-get >/dev/null || by_hand "the regression suite is missing, and there is no apt-get"

umask 022
draft=$dir.draft
for source in "${sources[@]}"; do
  major=${source%:*} suite=${source#*:}
  say "setup: unpacking the regression suite of PostgreSQL $major ($suite) into $dir"
  retry 300 "$here/unpack-regress.sh" "$major" "$suite" "$draft" >&2 || continue
  printf 'recipe 2\n' >"$draft/.complete"
  rm -rf "$dir"
  mv "$draft" "$dir"
  exit 0
done
rm -rf "$draft"
by_hand "PostgreSQL's source could not be had: ${sources[*]}"
