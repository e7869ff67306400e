# What checks take on disks; source it after lib.sh. Sets no option of the shell.

# Most that was measured, in MiB: build outputs without incremental compilation, what setup.sh
# unpacks, and the servers, vaults and exports of tests that run at the same time.
FLEXKEEP_ROOM_TARGET=3000
FLEXKEEP_ROOM_TOOLS=1900
FLEXKEEP_ROOM_SERVERS=2000

# existing FOLDER: itself, or the folder above it that is there.
existing() {
  local folder=$1
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  printf '%s\n' "$folder"
}

# warn_of_little_room TARGET: says so if a disk has less free than a run needs that comes on
# top of what lies there already. Fails never: what is there may be of use, and measures are not exact.
warn_of_little_room() {
  local target=$1 folder size need device free
  local -A needs=() folders=()
  while IFS='|' read -r folder need; do
    size=0
    # What lies in /tmp is of others.
    [ "$folder" = /tmp ] || [ ! -d "$folder" ] ||
      size=$(du -sm "$folder" 2>/dev/null | cut -f 1)
    need=$((need > size ? need - size : 0))
    device=$(stat -c %d "$(existing "$folder")")
    needs[$device]=$((${needs[$device]:-0} + need))
    folders[$device]="${folders[$device]:+${folders[$device]}, }$folder ($need MiB)"
  done <<LIST
$target|$FLEXKEEP_ROOM_TARGET
$FLEXKEEP_TOOLS|$FLEXKEEP_ROOM_TOOLS
/tmp|$FLEXKEEP_ROOM_SERVERS
LIST
  for device in "${!needs[@]}"; do
    folder=$(existing "${folders[$device]%% (*}")
    free=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
    [ "$free" -lt "${needs[$device]}" ] || continue
    say "warning: the disk of $folder has $free MiB free; this run may need ${needs[$device]} MiB there:
  ${folders[$device]}
Make room (cargo clean; CARGO_INCREMENTAL=0 keeps build outputs small), or put build outputs elsewhere
(CARGO_TARGET_DIR) and the unpacked servers too (FLEXKEEP_TOOLS). The tests' servers must lie in /tmp."
  done
}
