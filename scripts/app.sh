#!/bin/bash
# app.sh HANDLER FOLDER: puts the function app together as the host wants it: host.json and the
# handler at the root, and one folder with function.json a function. Makes the folder; replaces what
# an earlier call put there, and leaves everything else (settings, policy, state) as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
[ $# = 2 ] || die "usage: app.sh HANDLER FOLDER"
handler=$1 app=$2 root=$here/..
[ -x "$handler" ] || die "$handler is no program; build it first: make app"
mkdir -p "$app"
install -m 644 "$root/host.json" "$app/host.json"
for settings in local.settings.example.json local.settings.core-tools.example.json; do
  install -m 644 "$root/$settings" "$app/$settings"
done
# Under a new name first: the old one may be running.
install -m 755 "$handler" "$app/.flexkeep-handler.new"
mv -f "$app/.flexkeep-handler.new" "$app/flexkeep-handler"
# Where the example's settings put queues and events; only for who runs the app.
[ -d "$app/state" ] || install -d -m 700 "$app/state"
for json in "$root"/handlers/*/function.json; do
  name=$(basename "$(dirname "$json")")
  mkdir -p "$app/$name"
  install -m 644 "$json" "$app/$name/function.json"
done
