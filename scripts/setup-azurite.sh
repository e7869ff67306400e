#!/bin/bash
# setup-azurite.sh: provides Azurite, the emulator of Azure Blob Storage that tests run against, and
# the Node that it needs, under $FLEXKEEP_TOOLS/azurite; the launcher is $FLEXKEEP_TOOLS/azurite/blob.
# Quick when all is there; an install that was killed is done again. Downloads go through npm as it
# is configured. scripts/setup.sh runs it; a launcher named by FLEXKEEP_AZURITE is taken as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
# With an older Node npm would quietly choose an older Azurite, which refuses the storage API of today.
node_version=22.23.3
azurite_version=3.37.0
dir=$FLEXKEEP_TOOLS/azurite
complete="node $node_version, azurite $azurite_version, recipe 1"

by_hand() {
  die "$*
What can't be installed for you is to be provided by hand: npm, or an Azurite of version
$azurite_version or newer with a launcher that takes the arguments of azurite-blob:
  export FLEXKEEP_AZURITE=/path/to/azurite-blob"
}

# npm_install FOLDER PACKAGE: without scripts of the packages but where named.
npm_install() {
  local folder=$1; shift
  rm -rf "$folder"
  mkdir -p "$folder"
  printf '{ "private": true }\n' >"$folder/package.json"
  retry 600 npm install --prefix "$folder" --no-audit --no-fund --no-update-notifier --omit=dev \
    --loglevel=error "$@" >&2 || by_hand "npm could not install ${*: -1}"
}

if [ -n "${FLEXKEEP_AZURITE:-}" ] && [ "$FLEXKEEP_AZURITE" != "$dir/blob" ]; then
  [ -x "$FLEXKEEP_AZURITE" ] || by_hand "no program at FLEXKEEP_AZURITE=$FLEXKEEP_AZURITE"
  exit 0
fi
[ "$(cat "$dir/.complete" 2>/dev/null)" != "$complete" ] || exit 0
command -v npm >/dev/null || by_hand "there is no npm"

umask 022
say "setup: installing Azurite $azurite_version into $dir"
rm -f "$dir/.complete"
# The package's script puts the binary in place.
npm_install "$dir/node" "node@$node_version"
node=$dir/node/node_modules/node/bin
# For compiling extensions of Node.
rm -rf "${node%/bin}"/node_modules/node-linux-*/include
"$node/node" --version >/dev/null || by_hand "Node $node_version does not run here"
PATH=$node:$PATH npm_install "$dir/packages" --ignore-scripts "azurite@$azurite_version"
main=$dir/packages/node_modules/azurite/dist/src/blob/main.js
[ -e "$main" ] || by_hand "no $main after the installation"
printf '#!/bin/bash\nexec %q %q "$@"\n' "$node/node" "$main" >"$dir/blob"
chmod 0755 "$dir/blob"
"$dir/blob" --version >/dev/null || by_hand "Azurite does not start"
# Written last, so that an install that was killed is not taken for a whole one.
printf '%s\n' "$complete" >"$dir/.complete"
