#!/bin/bash
# package.sh [POLICY]: builds the zip for Azure Functions, target/package/flexkeep.zip, the same as a folder
# beside it (app, for an image), and the flexkeep command for the same systems: x86-64, glibc 2.28 or newer.
# POLICY goes in as policy.toml; without it an example that is refused. docs/package.md says what is in it.
# Needs a Debian with apt (to unpack PostgreSQL's client), Rust, cc with binutils, and python3 with venv.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
root=$(cd "$here/.." && pwd)
target=x86_64-unknown-linux-gnu glibc=2.28
zigbuild=0.24.0 ziglang=0.17.1

umask 022
[ $# -le 1 ] || die "usage: package.sh [POLICY]"
policy=${1:-}
[ -z "$policy" ] || [ -r "$policy" ] || die "there is no policy $policy"
policy=${policy:+$(realpath "$policy")}
client=$("$here/package-client.sh")

builder=$FLEXKEEP_TOOLS/zigbuild
exec 9>"$FLEXKEEP_TOOLS/.package-lock"
flock --timeout 1800 9 || die "another run has held $FLEXKEEP_TOOLS/.package-lock for half an hour"
# Written last, so that an install that was killed is not taken for a whole one.
if [ "$(cat "$builder/.complete" 2>/dev/null)" != "$zigbuild $ziglang" ]; then
  say "package: installing cargo-zigbuild $zigbuild and zig $ziglang into $builder"
  rm -rf "$builder"
  python3 -m venv "$builder" || die "python3 can't make a virtual environment: install python3-venv"
  retry 300 "$builder/bin/pip" -q --disable-pip-version-check install \
    "cargo-zigbuild==$zigbuild" "ziglang==$ziglang" >&2 || die "zig could not be installed by pip"
  printf '%s\n' "$zigbuild $ziglang" >"$builder/.complete"
fi
exec 9>&-
export PATH=$builder/bin:$PATH

cd "$root"
built=$(cargo metadata --locked --no-deps --format-version 1 |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
say "package: building for $target, glibc $glibc"
cargo zigbuild --release --locked -p flexkeep-handlers -p flexkeep-cli --target "$target.$glibc" >&2
out=$built/package
mkdir -p "$out"
# Symbols stay, for backtraces; zig's linker could only take both away.
for program in flexkeep flexkeep-handler; do
  strip --strip-debug -o "$out/$program.new" "$built/$target/release/$program"
done
"$here/package.py" --handler "$out/flexkeep-handler.new" --client "$client" \
  ${policy:+--policy "$policy"} --out "$out/flexkeep.zip" --folder "$out/app"
mv -f "$out/flexkeep.new" "$out/flexkeep"
rm -f "$out/flexkeep-handler.new"
[ -n "$policy" ] || say "package: policy.toml is an example that is refused; make package POLICY=FILE takes yours"
