#!/bin/bash
# setup-amqp-peer.sh: provides Apache Qpid Proton for Python, which scripts/servicebus_peer.py is
# made of, in a virtual environment under $FLEXKEEP_TOOLS. Quick when it is there; an install that
# was killed is done again. setup.sh calls it. Proton comes from PyPI as source and is compiled,
# which takes half a minute.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
proton=0.40.0
# Raise it when an environment made by an older version of this script won't do any more.
recipe=$proton-1
dir=$FLEXKEEP_TOOLS/amqp-peer

works() { "$dir/bin/python" -c 'import proton; assert proton.SSL.present()' 2>/dev/null; }

[ "$(cat "$dir/.complete" 2>/dev/null)" != "$recipe" ] || ! works || exit 0

build() {
  rm -rf "$dir"
  python3 -m venv "$dir" >&2 &&
    retry 300 "$dir/bin/pip" -q --disable-pip-version-check install "python-qpid-proton==$proton" >&2 &&
    works
}

say "setup: compiling Qpid Proton $proton into $dir"
if ! build; then
  packages=(gcc libc6-dev python3-dev python3-venv libssl-dev pkg-config)
  say "setup: once more, with ${packages[*]}"
  command -v apt-get >/dev/null && as_root apt-get -qq update >&2 &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
      -o DPkg::Lock::Timeout=120 install "${packages[@]}" >&2 && build ||
    die "no Qpid Proton with TLS in $dir. It needs Python 3 with venv and its headers, a C compiler
and the headers of OpenSSL. Or export FLEXKEEP_AMQP_PEER: a program that runs
scripts/servicebus_peer.py with a Python that has python-qpid-proton $proton"
fi
printf '%s\n' "$recipe" >"$dir/.complete"
