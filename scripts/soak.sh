#!/bin/bash
# soak.sh [ROUNDS]: the tests that repeat themselves, ROUNDS times as long as in `make test` (5 without
# it), and those that are for this only. Takes an hour and more; each test may take half an hour.
# FLEXKEEP_SOAK chooses others, in cargo-nextest's language for sets of tests.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cargo nextest --version >/dev/null 2>&1 || die "a soak needs cargo-nextest: cargo install --locked cargo-nextest"
export FLEXKEEP_ROUNDS=${1:-${FLEXKEEP_ROUNDS:-5}} FLEXKEEP_LONG=1
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cargo build --locked --workspace
target=$(target_directory)
export FLEXKEEP_BIN=$target/debug/flexkeep FLEXKEEP_HANDLER_BIN=$target/debug/flexkeep-handler
# Without what needs a package that was made before: `make prove-azure`.
tests=${FLEXKEEP_SOAK:-package(flexkeep-tests) and not binary(package_on_azure)}
exec cargo nextest run --locked --workspace --profile soak --run-ignored all -E "$tests"
