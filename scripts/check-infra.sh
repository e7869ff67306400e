#!/bin/bash
# check-infra.sh [ARGUMENT...]: checks infra/: with the Bicep compiler where there is one, and always
# with scripts/bicepcheck, which needs neither it nor Azure. With arguments, only the latter, which
# gets them. Its Python packages are put into $FLEXKEEP_TOOLS once.
# FLEXKEEP_BICEP_TYPES: a folder with the resource types of Azure/bicep-types-az (its `generated`), in
# place of the selection in scripts/bicepcheck/types.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
packages=(tree-sitter==0.26.1 tree-sitter-bicep==1.1.0)
venv=$FLEXKEEP_TOOLS/bicepcheck

provide() {
  [ "$(cat "$venv/.complete" 2>/dev/null)" != "${packages[*]}" ] || return 0
  umask 022
  mkdir -p "$FLEXKEEP_TOOLS"
  [ -O "$FLEXKEEP_TOOLS" ] || die "$FLEXKEEP_TOOLS belongs to another user; set FLEXKEEP_TOOLS to a folder of yours"
  (
    flock --timeout 600 9 || die "another setup has held $FLEXKEEP_TOOLS/.bicepcheck.lock for ten minutes"
    # Somebody else may have been quicker.
    [ "$(cat "$venv/.complete" 2>/dev/null)" != "${packages[*]}" ] || exit 0
    say "check-infra: installing ${packages[*]} into $venv"
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" && retry 120 "$venv/bin/pip" -q --disable-pip-version-check install "${packages[@]}"; } >&2; then
      die "could not install ${packages[*]}; it takes Python 3.10 or newer with venv, and pip's package index"
    fi
    printf '%s\n' "${packages[*]}" >"$venv/.complete"
  ) 9>"$FLEXKEEP_TOOLS/.bicepcheck.lock"
}

compile() {
  local file
  for file in infra/main.bicep infra/modules/*.bicep; do
    bicep build --stdout "$file" >/dev/null || die "bicep build failed: $file"
  done
  # What `azd` would have in its environment.
  export AZURE_ENV_NAME=check AZURE_LOCATION=westeurope AZURE_SUBSCRIPTION_ID=00000000-0000-0000-0000-000000000000
  for file in infra/*.bicepparam infra/examples/*.bicepparam; do
    bicep build-params --stdout "$file" >/dev/null || die "bicep build-params failed: $file"
  done
}

provide
[ $# = 0 ] || exec "$venv/bin/python" -B "$here/bicepcheck" "$@"
cd "$here/.."
if command -v bicep >/dev/null; then compile; else say "check-infra: no Bicep compiler here; the checks of scripts/bicepcheck only"; fi
exec "$venv/bin/python" -B "$here/bicepcheck" infra
