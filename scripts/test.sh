#!/bin/bash
# test.sh: every check of the project, in the order of how fast it can fail. Arguments go to the
# test runner, as in: scripts/test.sh -p flexkeep-vault. The last line counts what the runners ran.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# shellcheck source=scripts/room.sh
. "$here/room.sh"
warn_of_little_room "${CARGO_TARGET_DIR:-target}"
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
target=$(target_directory)

step() { printf '\n== %s\n' "$*"; "$@"; }
step cargo fmt --all -- --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
step "$here/check-infra.sh"
step "$here/check-dependencies.py"
# The tests run the programs; without this each of them would ask cargo for them. The whole
# workspace, as other selections of packages mean other features, and all dependencies built again.
step cargo build --locked --workspace
export FLEXKEEP_BIN=$target/debug/flexkeep FLEXKEEP_HANDLER_BIN=$target/debug/flexkeep-handler

out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0
[ $# -gt 0 ] || set -- --workspace
if cargo nextest --version >/dev/null 2>&1; then
  step cargo test --locked --doc "$@" 2>&1 | tee "$out" || failed=1
  step cargo nextest run --locked --no-fail-fast "$@" 2>&1 | tee -a "$out" || failed=1
else
  step cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$out" || failed=1
fi
"$here/count-tests.py" "$out" || failed=1
# Where it was the disk, the reason stands in the middle of a long output.
[ "$failed" = 0 ] || ! grep -q 'No space left on device' "$out" ||
  say "a disk was full: $(df -Pm "$target" /tmp | awk 'NR > 1 { print $6 " has " $4 " MiB free" }' | sort -u | paste -sd ';')"
exit "$failed"
