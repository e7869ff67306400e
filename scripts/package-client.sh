#!/bin/bash
# package-client.sh: unpacks what the package has of PostgreSQL, unchanged, into $FLEXKEEP_TOOLS/package-client,
# and prints that folder. Done anew after a week, so that a package has the newest minor version and
# the security updates of the libraries; what is there is kept where nothing newer can be had.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# As Debian has it: testing moves on to the next major in time.
major=18 suites=(forky sid)
days=7
# Raise it when a client unpacked by an older version of this script won't do any more.
recipe=1

umask 022
[ "$(uname -m)" = x86_64 ] || die "this must run on x86-64: the loader is asked what the client needs"
mkdir -p "$FLEXKEEP_TOOLS"
[ -O "$FLEXKEEP_TOOLS" ] || die "$FLEXKEEP_TOOLS belongs to another user; set FLEXKEEP_TOOLS to a folder of yours"
exec 9>"$FLEXKEEP_TOOLS/.package-lock"
flock --timeout 1800 9 || die "another run has held $FLEXKEEP_TOOLS/.package-lock for half an hour"

dir=$FLEXKEEP_TOOLS/package-client
usable() { [ "$(cat "$dir/.complete" 2>/dev/null)" = "$major $recipe" ]; }
unpack() {
  local suite
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  for suite in "${suites[@]}"; do
    say "package: unpacking the client of PostgreSQL $major ($suite)"
    rm -rf "$dir.new"
    # base-files has the texts of the licences that the packages name.
    APTROOT_AS_IS=yes timeout --kill-after=10 600 "$here/aptroot.sh" "$suite" "$dir.new" \
      "postgresql-client-$major" ca-certificates base-files >&2 || continue
    printf '%s\n' "$major $recipe" >"$dir.new/.complete"
    rm -rf "$dir"
    mv "$dir.new" "$dir"
    return 0
  done
  rm -rf "$dir.new"
  return 1
}
if ! usable || [ -n "$(find "$dir/.complete" -mtime "+$days")" ]; then
  if ! unpack; then
    usable || die "PostgreSQL $major's client could not be had from Debian's ${suites[*]}; this needs apt-get, dpkg-deb and its mirror"
    say "package: WARNING: no newer client could be had; this one is of $(date -r "$dir/.complete" +%F)"
  fi
fi
printf '%s\n' "$dir"
