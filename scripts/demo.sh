#!/bin/bash
# demo.sh: what flexkeep does, on two throwaway servers. Sets up what is missing, and leaves nothing
# behind but build outputs and the unpacked servers of setup.sh, also after Ctrl-C. Exits with 0
# only if the restored server is the same as the original.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

# In /tmp, as a socket's path must be short and user postgres must be able to go there.
work=$(mktemp -d /tmp/flexkeep-demo.XXXXXX)
host=''
clean_up() {
  local code=$? data pid try
  trap '' INT TERM HUP
  trap - EXIT
  if [ -n "$host" ] && kill -TERM "$host" 2>/dev/null; then
    for try in $(seq 300); do kill -0 "$host" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$host" 2>/dev/null || true
  fi
  for data in "$work"/*/data; do
    pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || continue
    # The number alone could by now be another process's.
    for try in $(seq 200); do
      [ "$(readlink "/proc/$pid/cwd")" = "$data" ] || break
      [ "$try" != 1 ] || kill -QUIT "$pid"
      sleep 0.1
    done
  done
  rm -rf "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

now() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }
size() { numfmt --to=iec-i --suffix=B --format=%.1f "$(du -sb "$1" | cut -f 1)"; }
bytes() { du -sb "$1" | cut -f 1; }
# Everything below is run by `timeout --foreground`, so that Ctrl-C reaches it too.
# step TEXT CMD...: runs it with a time limit of its own, its output in a log, and says how long it took.
step() {
  local text=$1 code=0 start; shift
  printf '  %-52s' "$text"
  start=$(now)
  # Not `|| code=$?`: that would switch off -e within the functions that are run here.
  set +e
  (set -e; trap - EXIT; "$@") >"$work/log" 2>&1
  code=$?
  set -e
  if [ "$code" != 0 ]; then
    printf 'failed (exit code %s)\n\n' "$code"
    tail -n 40 "$work/log" >&2
    exit 1
  fi
  awk -v us=$(($(now) - start)) 'BEGIN { printf "%7.1f s\n", us / 1e6 }'
}
note() { printf '  %-52s%s\n' "" "$*"; }

as_postgres() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
  else "$@"; fi
}

# start_server NAME: on a socket in its own folder, at no port of this machine.
start_server() {
  local dir=$work/$1 try
  mkdir "$dir"
  [ "$(id -u)" != 0 ] || chown postgres "$dir"
  (cd "$dir" && as_postgres "$bin/initdb" --no-sync --no-instructions -A trust -U postgres -E UTF8 --locale C.UTF-8 -D "$dir/data")
  cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
shared_buffers = 256MB
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 2GB
CONF
  # exec, so that the pid is the server's own.
  (cd "$dir" && if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$bin/postgres" -D "$dir/data"
  else exec "$bin/postgres" -D "$dir/data"; fi) >"$dir/log" 2>&1 </dev/null &
  local pid=$!
  for try in $(seq 600); do
    if "$bin/pg_isready" -q -h "$dir"; then return 0; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/log"
  return 1
}
sql() { local server=$1 database=$2; shift 2; timeout --foreground 300 "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -h "$work/$server" -U postgres -d "$database" "$@"; }
connection() { printf 'host=%s user=postgres dbname=postgres' "$work/$1"; }

# facts SERVER: all there is on it, as text: definitions, rows, large objects, sequences, properties, roles.
facts() {
  local server=$1 database part compare=$here/../tests/src/compare
  for database in $databases; do
    echo "== $database"
    timeout --foreground 300 "$bin/pg_dump" --schema-only --create -h "$work/$server" -U postgres -d "$database" | grep -vE '^\\(un)?restrict '
    for part in rows large_objects sequences; do
      sql "$server" "$database" -f "$compare/settings.sql" -f "$compare/$part.sql" | python3 -m json.tool --sort-keys
    done
  done
  echo "== roles"
  sed "s/\$OPTIONS/||' inherit '||inherit_option||' set '||set_option/" "$compare/roles.sql" |
    sql "$server" postgres -f "$compare/settings.sql" -f - | python3 -m json.tool --sort-keys
}

free_kib=$(df --output=avail -k /tmp | tail -n 1)
[ "$free_kib" -gt $((3 * 1024 * 1024)) ] || die "the demo needs 3 GiB in /tmp; there are $((free_kib / 1024)) MiB"
chmod 755 "$work"
unset "${!PG@}"
export LC_ALL=C.UTF-8 PGCONNECT_TIMEOUT=20

echo
echo "flexkeep: a function app backs a server up, twice; stock pg_restore brings it back, and one table alone"
echo
step "Tools: PostgreSQL 18 beside the system" "$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
bin=$FLEXKEEP_PG18_BIN
export PATH=$bin:$PATH
step "flexkeep: the command and the function app" make -C "$here/.." --no-print-directory app APP="$work/app"
flexkeep=$(cd "$here/.." && cargo metadata --locked --no-deps --format-version 1 |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/flexkeep
vault=$work/vault export=$work/export databases="shop events pictures"
mkdir "$export"

step "Server one: starts" start_server one
step "Server one: a shop, three databases" sql one postgres -f "$here/demo/shop.sql"
note "$(sql one postgres -c "SELECT pg_size_pretty(sum(pg_database_size(datname))) || ' on disk' FROM pg_database WHERE datname IN ('shop', 'events', 'pictures')")"
step "Check: can everything be backed up?" timeout --foreground 120 "$flexkeep" check --from "$(connection one)" --vault "$vault"

# The policy: what to back up, when, and where to. A server that was never backed up is due at once.
app=$work/app events=$work/app/state/events.jsonl
cat >"$app/policy.toml" <<POLICY
[vault]
place = "$vault"

[[server]]
name = "shop"
connection = "$(connection one)"
schedule = { every = "week", on = "sunday", at = "02:30", zone = "Europe/Berlin" }
POLICY
python3 - "$app" "$bin" <<'PYTHON'
import json, sys
app, bin = sys.argv[1:]
settings = json.load(open(f"{app}/local.settings.example.json"))
settings["Values"] |= {"FLEXKEEP_TICK": "* * * * * *", "FLEXKEEP_PG_BIN": bin}
json.dump(settings, open(f"{app}/local.settings.json", "w"))
PYTHON
# wait_for_event TYPE: the event's line, as soon as it was told.
wait_for_event() {
  local try
  for try in $(seq 3000); do
    if grep -s "\"type\":\"flexkeep.$1\"" "$events"; then return 0; fi
    kill -0 "$host" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/host.log"
  return 1
}
show_host() { sed -E 's/^[^ ]+Z? +//; s/flexkeep_local_host::[a-z]+: //; s/invocation\{[^}]*\}: //g; s/^([A-Z]+) +(handler: [a-z]+ )?/\1 /' "$work/host.log" | grep -E "$1" | tail -n "${2:-2}" | cut -c 1-100 | sed 's/^/      /'; }

"$flexkeep" host --app "$app" --listen 127.0.0.1:0 >"$work/host.log" 2>&1 </dev/null &
host=$!
step "The timer fires, the worker backs up, the event comes" wait_for_event backup.completed
show_host 'is sent|MB read' 3
first=$(bytes "$vault")
note "vault: $(size "$vault")"
step "A day of business: 1 % of the rows" sql one postgres -f "$here/demo/day.sql"
url=$(sed -n 's/.*listening on \(http:[^ ]*\).*/\1/p' "$work/host.log" | head -n 1)
step "Back up now: flexkeep trigger shop --wait" timeout --foreground 500 "$flexkeep" trigger shop --wait 8m --url "$url"
second=$(bytes "$vault")
note "vault: $(size "$vault"), $(awk -v a="$first" -v b="$second" 'BEGIN { printf "%.1f %% more", (b - a) / a * 100 }')"
timeout --foreground 60 "$flexkeep" list --vault "$vault" | sed 's/^/      /'
timeout --foreground 60 "$flexkeep" status --policy "$app/policy.toml" | sed 's/^/      /'
note "$(grep -c . "$events") events told; the last:"
tail -n 1 "$events" | python3 -c '
import json, sys
event = json.loads(sys.stdin.readline())
data = event["data"]
print(f"      {event['"'type'"']}: {data['"'backup'"']}, {data['"'rows'"']} rows, {data['"'new_stored_bytes'"']} bytes new, {len(data['"'not_backed_up'"'])} losses")'
kill -TERM "$host"
wait "$host"
host=''
step "Export of the latest backup" timeout --foreground 500 "$flexkeep" export latest --vault "$vault" --to "$export"
note "$(cd "$export" && ls -m)"

restore() {
  sql two postgres -f "$export/roles.sql"
  local database
  for database in $databases; do
    timeout --foreground 500 "$bin/pg_restore" --exit-on-error --create -j 2 -h "$work/two" -U postgres -d postgres "$export/$database.dump"
  done
}
compare() {
  facts one >"$work/facts.one"
  facts two >"$work/facts.two"
  # Rights are granted in no fixed order.
  sort "$work/facts.one" >"$work/sorted.one"
  sort "$work/facts.two" >"$work/sorted.two"
  diff "$work/sorted.one" "$work/sorted.two"
}
step "Server two: starts empty" start_server two
step "Server two: roles.sql, then stock pg_restore -j 2" restore
step "Comparison: definitions, rows, large objects, roles" compare
note "the same: $(grep -c ' rows, sum ' "$work/facts.two") tables, $(grep -c ' bytes ' "$work/facts.two") large objects"

step "Is the vault whole? flexkeep verify reads every byte" timeout --foreground 300 "$flexkeep" verify --vault "$vault"

# Someone drops a table by mistake, with what hangs on it; it comes back alone.
bring_back() {
  timeout --foreground 300 "$flexkeep" restore latest --vault "$vault" --into "$(connection two)" \
    --database events --table events --into-existing
}
step "Server two: DROP TABLE events, by mistake" sql two events -c "DROP TABLE events"
step "Server two: flexkeep restore brings that table back" bring_back
step "Comparison: all is as it was" compare

cat <<'TEXT'

Nothing of this is left running or on disk. To do it with a server of yours:

  make app                                       # the command, and the function app in target/app
  target/release/flexkeep check  --from "host=... user=... dbname=postgres" --vault /where/backups/go
  target/release/flexkeep backup --from "host=... user=... dbname=postgres" --vault /where/backups/go
  target/release/flexkeep list   --vault /where/backups/go
  target/release/flexkeep verify --vault /where/backups/go
  target/release/flexkeep restore latest --vault /where/backups/go --into "host=... user=..." --preview
  target/release/flexkeep export latest --vault /where/backups/go --to /an/empty/folder

The export's README.txt says how to restore it. docs/policy.md and docs/self-hosting.md say how the
function app backs up many servers by schedule.
TEXT
