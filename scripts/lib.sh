# Shared by the scripts in this folder; source it. Sets no option of the shell and reaches nothing.

# Where unpacked servers live. Not in the checkout: servers run as user postgres when we are root,
# and that user may not be able to enter the folder that the checkout lies in.
FLEXKEEP_TOOLS=${FLEXKEEP_TOOLS:-/var/tmp/flexkeep-tools-$(id -u)}

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# retry SECONDS CMD...: up to three tries, each with that time limit.
retry() {
  local limit=$1 try; shift
  for try in 1 2 3; do
    if timeout --kill-after=10 "$limit" "$@"; then return 0; fi
    say "try $try of 3 failed: $*"
    [ "$try" = 3 ] || sleep $((try * 3))
  done
  return 1
}

# as_root CMD...: run it as root, through sudo where needed; fails where neither is possible.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1; fi
}

# target_directory: where cargo puts what it builds; in the checkout.
target_directory() {
  cargo metadata --locked --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}
