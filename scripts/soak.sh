#!/bin/bash
# soak.sh [ROUNDS]: chaos as a program (tests/tests/chaos.rs) for FLEXKEEP_SOAK_SECONDS (1800), ten
# minutes for each seed, from FLEXKEEP_SEED on (a random one without it). FLEXKEEP_SOAK_ONLY=kills:
# only handlers and hosts are killed, until FLEXKEEP_SOAK_KILLS (200) were survived by another lane.
# With ROUNDS (or FLEXKEEP_ROUNDS, or FLEXKEEP_SOAK) instead: the tests that repeat themselves, ROUNDS
# times (5) as long as in `make test`, and those that are for this only. Takes an hour and more; each
# test may take half an hour. FLEXKEEP_SOAK chooses others, in cargo-nextest's language for sets of tests.
# With FLEXKEEP_SOAK_SECONDS and ROUNDS: both.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cargo nextest --version >/dev/null 2>&1 || die "a soak needs cargo-nextest: cargo install --locked cargo-nextest"
rounds=${1:-${FLEXKEEP_ROUNDS:-}}
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cargo build --locked --workspace
target=$(target_directory)
export FLEXKEEP_BIN=$target/debug/flexkeep FLEXKEEP_HANDLER_BIN=$target/debug/flexkeep-handler
soak() { cargo nextest run --locked --workspace --profile soak "$@"; }
if [ -n "${FLEXKEEP_SOAK_SECONDS:-}" ] || [ -z "$rounds${FLEXKEEP_SOAK:-}" ]; then
  soak --run-ignored only --no-capture -E 'package(flexkeep-tests) and binary(chaos) and test(=soak)'
fi
if [ -n "$rounds${FLEXKEEP_SOAK:-}" ]; then
  export FLEXKEEP_ROUNDS=${rounds:-5} FLEXKEEP_LONG=1
  # Without what needs a package that was made before: `make prove-azure`.
  tests=${FLEXKEEP_SOAK:-package(flexkeep-tests) and not binary(package_on_azure) and not (binary(chaos) and test(=soak))}
  soak --run-ignored all -E "$tests"
fi
