#!/bin/bash
# prove-package.sh [ZIP]: runs the package where there is nothing but it: a root file system with the C
# library and the shell of an older Debian, no PostgreSQL, no certificates, no user's name; the package
# mounted read-only under /home/site/wwwroot; an ordinary user; 0.8 GB of temporary disk, as on Flex
# Consumption. `flexkeep host` starts the handler there as the Functions host does, and the timer's tick
# backs up a real server over TLS. The backup is then exported and restored there, and compared. Once more with a
# package whose files have lost their execute bits.
#
# Without ZIP, the one that `make package` makes. Needs root, or user namespaces; ends with 77 and says so
# where there are neither. What else it can be told, in the environment:
#   PROVE_SUITE       Debian release of the bare root (bullseye: glibc 2.31)
#   PROVE_MAJOR       major version of the server that is backed up (18)
#   PROVE_CONNECTION  back up this server instead of one of our own, a connection string without password;
#   PROVE_PASSWORD    and its password. Nothing is restored then. Names are resolved as on this machine.
#   PROVE_VAULT       place of the vault instead of a folder (and no export)
#   PROVE_SETTINGS    JSON file of more app settings: {"Values": {...}}
#   PROVE_BIND        folder that is seen in the bare root under its own path, read-only (certificates)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
suite=${PROVE_SUITE:-bullseye} major=${PROVE_MAJOR:-18}
[ $# -le 1 ] || die "usage: prove-package.sh [ZIP]"

if [ "$(id -u)" = 0 ]; then
  enter=(unshare --mount --pid --fork --kill-child) user=10001
else
  enter=(unshare --map-root-user --mount --pid --fork --kill-child) user=0
fi
if ! "${enter[@]}" mount -t proc proc /proc; then
  say "prove-package: SKIPPED, NOTHING WAS PROVED: may not mount, neither as root nor in a user namespace"
  exit 77
fi
command -v openssl >/dev/null || die "no openssl to make the server's certificate with"

work=$(mktemp -d /tmp/flexkeep-prove.XXXXXX)
running=''
stop_host() {
  # With this process the first one of its namespace ends, and with that all others.
  [ -z "$running" ] || { kill -KILL "$running" 2>/dev/null && wait "$running" 2>/dev/null; } || true
  running=''
}
clean_up() {
  local code=$? pid try
  trap '' INT TERM HUP
  trap - EXIT
  stop_host
  if pid=$(head -n 1 "$work/server/data/postmaster.pid" 2>/dev/null); then
    for try in $(seq 200); do
      [ "$(readlink "/proc/$pid/cwd")" = "$work/server/data" ] || break
      [ "$try" != 1 ] || kill -QUIT "$pid"
      sleep 0.1
    done
  fi
  rm -rf "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
chmod 755 "$work"
umask 022
step() { printf '  %s\n' "$*"; }

# The root: the C library, the loader, a shell. Nothing else; a test of ours sees to it.
bare_root() {
  local from=$FLEXKEEP_TOOLS/bare-$suite
  if [ ! -e "$from/.complete" ]; then
    say "prove-package: unpacking the C library and the shell of Debian $suite"
    rm -rf "$from"
    APTROOT_AS_IS=yes timeout --kill-after=10 300 "$here/aptroot.sh" "$suite" "$from" libc6 dash >&2 ||
      die "Debian $suite could not be had; PROVE_SUITE names another release"
    touch "$from/.complete"
  fi
  local bare=$work/bare path
  mkdir -p "$bare"/{bin,etc,proc,dev,tmp,data,home/site/wwwroot,opt/flexkeep}
  while read -r path; do
    [ ! -f "$from$path" ] || [ "${path%%/share/*}" != "$path" ] || install -D "$from$path" "$bare$path"
  done <"$from/listings/libc6.list"
  cp -a "$from"/lib64 "$bare/" 2>/dev/null || true
  install "$from/bin/dash" "$bare/bin/sh"
  printf '127.0.0.1 server.flexkeep.test\n' >"$bare/etc/hosts"
  touch "$bare/opt/flexkeep/flexkeep" "$bare"/dev/{null,zero,random,urandom}
  if [ -n "${PROVE_BIND:-}" ]; then mkdir -p "$bare$PROVE_BIND"; fi
  local foreign
  foreign=$(find "$bare" \( -name 'pg_*' -o -name 'libpq*' -o -name 'libssl*' -o -name '*.crt' -o -name '*.pem' -o -name passwd \) -print -quit)
  [ -z "$foreign" ] || die "the bare root is not bare: $foreign"
}

# What runs as root of the namespace, to build the root and enter it.
# shellcheck disable=SC2016
inside='set -eu
root=$1 bare=$2 app=$3 data=$4 flexkeep=$5 user=$6 bind=$7 proxies=$8; shift 8
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cp -a "$bare/." "$root"
mount -t proc proc "$root/proc"
for device in null zero random urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
mount -t tmpfs -o size=800m,mode=1777 tmpfs "$root/tmp"
read_only() { mount --bind "$1" "$root$2"; mount -o remount,bind,ro "$root$2"; }
read_only "$app" /home/site/wwwroot
read_only "$flexkeep" /opt/flexkeep/flexkeep
[ -z "$bind" ] || read_only "$bind" "$bind"
for file in hosts resolv.conf; do
  [ "$proxies" = no ] || { touch "$root/etc/$file"; read_only "/etc/$file" "/etc/$file"; }
done
mount --bind "$data" "$root/data"
mount -o remount,bind,ro "$root"
# Not with exec: this shell is the first process, with which all others of the namespace end, and who
# becomes another user is no longer told of the end of its parent. In a user namespace there is no
# other user to become.
if [ "$user" = 0 ]; then set -- chroot "$root" "$@"
else set -- chroot --userspec="$user:$user" --groups= "$root" "$@"; fi
code=0
"$@" || code=$?
exit "$code"'
# in_bare APP CMD...: with APP as the package and nothing of our environment.
in_bare() { (become_bare "$@"); }
become_bare() {
  local app=$1 names=no; shift
  [ -z "${PROVE_CONNECTION:-}" ] || names=yes
  exec "${enter[@]}" env -i "PATH=$PATH" HOME=/home bash -c "$inside" bash \
    "$work/root" "$work/bare" "$app" "$work/data" "$flexkeep" "$user" "${PROVE_BIND:-}" "$names" "$@"
}

as_postgres() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
  else "$@"; fi
}
sql() { "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -h "$work/server" -U postgres "$@"; }

certificates() {
  local dir=$1
  (cd "$dir" && openssl req -x509 -newkey rsa:2048 -nodes -days 3 -subj "/CN=authority of this proof" \
    -keyout ca.key -out ca.crt && openssl req -newkey rsa:2048 -nodes -subj "/CN=server" \
    -keyout server.key -out server.csr && printf 'subjectAltName=DNS:server.flexkeep.test\n' >san &&
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3 -extfile san \
      -out server.crt) >"$dir/openssl.log" 2>&1 || { cat "$dir/openssl.log"; return 1; }
  chmod 600 "$dir"/*.key
}

start_server() {
  local dir=$work/server try
  mkdir "$dir"
  certificates "$dir"
  [ "$(id -u)" != 0 ] || chown -R postgres "$dir"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  (cd "$dir" && as_postgres "$bin/initdb" --no-sync --no-instructions -A trust -U postgres -E UTF8 --locale C.UTF-8 -D "$dir/data") >/dev/null
  printf '%s\n' "local all all trust" "hostssl all all 127.0.0.1/32 scram-sha-256" >"$dir/data/pg_hba.conf"
  cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$dir'
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
fsync = off
CONF
  (cd "$dir" && if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$bin/postgres" -D "$dir/data"
  else exec "$bin/postgres" -D "$dir/data"; fi) >"$dir/log" 2>&1 </dev/null &
  for try in $(seq 300); do
    ! "$bin/pg_isready" -q -h "$dir" -p "$port" || break
    sleep 0.1
  done
  export PGPORT=$port
  sql -d postgres -c "CREATE ROLE backup LOGIN SUPERUSER PASSWORD '$password'" -c "CREATE ROLE clerk" \
    -c "CREATE DATABASE shop" || { cat "$dir/log"; return 1; }
  sql -d shop >/dev/null <<'SQL'
CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL, price numeric, at timestamptz DEFAULT '2026-01-01');
INSERT INTO item SELECT i, 'item ' || md5(i::text), i / 100.0 FROM generate_series(1, 200000) i;
CREATE TABLE picture (id int PRIMARY KEY, data bytea);
INSERT INTO picture SELECT i, decode(repeat(md5(i::text), 2000), 'hex') FROM generate_series(1, 500) i;
CREATE VIEW dear AS SELECT * FROM item WHERE price > 1000;
GRANT SELECT ON dear TO clerk;
SELECT lo_from_bytea(0, 'a large object');
SQL
}

# facts DATABASE: what is in it, as text.
facts() {
  sql -d "$1" -c "SELECT count(*), sum(hashtextextended(i::text, 0)) FROM item i" \
    -c "SELECT count(*), sum(hashtextextended(p::text, 0)) FROM picture p" \
    -c "SELECT count(*), sum(hashbyteaextended(lo_get(oid), 0)) FROM pg_largeobject_metadata" \
    -c "SELECT relname, relkind, relacl FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
}

unpack() {
  python3 - "$1" "$2" "$3" <<'PYTHON'
import os, sys, zipfile
archive, folder, keep = zipfile.ZipFile(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep"
for entry in archive.infolist():
    path = archive.extract(entry, folder)
    mode = entry.external_attr >> 16 & 0o777
    assert entry.create_system == 3 and mode in (0o644, 0o755), f"{entry.filename}: mode {mode:o}"
    # The platform repairs the handler's own bit, and no other.
    os.chmod(path, mode if keep or entry.filename == "flexkeep-handler" else 0o644)
PYTHON
}

# One backup by the app in this folder; the name says where its state lies. Wants an event, and gives it.
backup_with() {
  local app=$1 name=$2 want=$3 dir=$work/data/$2 try
  # The settings have the password.
  mkdir -m 700 "$dir"
  [ "$user" = 0 ] || chown "$user:$user" "$dir"
  printf '%s\n' "[vault]" "place = \"\${FLEXKEEP_VAULT}\"" "" "[[server]]" 'name = "shop"' \
    "connection = \"$connection\"" 'password = { env = "PROVE_PASSWORD" }' \
    'schedule = { every = "week", on = "sunday", at = "02:30" }' >"$dir/policy.toml"
  python3 - "$dir/settings.json" "${PROVE_SETTINGS:-}" "$name" "${PROVE_VAULT:-/data/$name/vault}" "$password" "${trust:-}" <<'PYTHON'
import json, sys
to, more, name, vault, password, trust = sys.argv[1:]
values = {
    "FUNCTIONS_WORKER_RUNTIME": "Custom", "FLEXKEEP_POLICY": f"/data/{name}/policy.toml",
    "FLEXKEEP_TICK": "* * * * * *", "FLEXKEEP_QUEUE": "backups", "FLEXKEEP_LANES_QUEUE": "lanes", "FLEXKEEP_RESTORE_QUEUE": "restores",
    "FLEXKEEP_BUS": f"sqlite:/data/{name}/queues.db",
    "FLEXKEEP_EVENTS": f"file:/data/{name}/events.jsonl,log",
    "FLEXKEEP_VAULT": vault, "PROVE_PASSWORD": password,
} | ({"SSL_CERT_FILE": trust} if trust else {})
if more:
    values |= json.load(open(more))["Values"]
json.dump({"Values": values}, open(to, "w"))
PYTHON
  become_bare "$app" /opt/flexkeep/flexkeep host --app /home/site/wwwroot --settings "/data/$name/settings.json" \
    --state "/data/$name/host" --listen 127.0.0.1:0 >"$dir/host.log" 2>&1 </dev/null &
  running=$!
  for try in $(seq 1200); do
    if grep -qs "\"type\":\"flexkeep.backup.$want\"" "$dir/events.jsonl"; then
      stop_host
      return 0
    fi
    kill -0 "$running" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/host.log" "$dir/events.jsonl" 2>/dev/null || true
  die "no event backup.$want of the app in $app"
}

echo "prove-package: the package where there is nothing but it"
zip=${1:-}
if [ -z "$zip" ]; then
  "$here/package.sh" >"$work/package.log" 2>&1 || { cat "$work/package.log"; exit 1; }
  zip=$(cd "$here/.." && cargo metadata --locked --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/package/flexkeep.zip
fi
flexkeep=$(dirname "$(realpath "$zip")")/flexkeep
[ -x "$flexkeep" ] || die "no flexkeep beside $zip; make package puts both there"
unset "${!PG@}"
export LC_ALL=C.UTF-8
bare_root
mkdir "$work/root" "$work/data" "$work/app" "$work/app-bits-lost"
[ "$user" = 0 ] || chown "$user:$user" "$work/data"
unpack "$zip" "$work/app" keep
unpack "$zip" "$work/app-bits-lost" lose
step "bare root: Debian $suite, $(du -sm "$work/bare" | cut -f 1) MiB, C library $(basename "$(find "$work/bare" -name 'libc-2.*.so' -o -name 'libc.so.6' | sort | head -n 1)")"
# Seen to be so, as it is what all the rest rests on.
# shellcheck disable=SC2016
in_bare "$work/app" /bin/sh -c ': >/tmp/x && : >/data/x && for folder in / /home/site/wwwroot /opt/flexkeep; do
  ! (: >$folder/x) 2>/dev/null || { echo "$folder can be written to"; exit 1; }
done' || die "the bare root is not as it should be"

password=${PROVE_PASSWORD:-} connection=${PROVE_CONNECTION:-}
if [ -z "$connection" ]; then
  "$here/setup.sh"
  # shellcheck source=scripts/env.sh
  . "$here/env.sh"
  bin=FLEXKEEP_PG${major}_BIN bin=${!bin}
  password=$(openssl rand -hex 16)
  start_server
  cp "$work/server/ca.crt" "$work/data/ca.crt"
  chmod 644 "$work/data/ca.crt"
  trust=/data/ca.crt
  connection="host=server.flexkeep.test port=$port user=backup dbname=postgres sslmode=verify-full"
  step "server: $("$bin/postgres" --version), TLS only, its certificate's authority in SSL_CERT_FILE"
fi

backup_with "$work/app" first completed
step "package as it is: backed up, $(grep -c . "$work/data/first/events.jsonl") events"
if [ -n "${PROVE_VAULT:-}" ]; then
  step "not done again without execute bits: in this vault the server is not due any more"
else
  backup_with "$work/app-bits-lost" lost completed
  grep -q 'a copy is used' "$work/data/lost/host.log" || die "the launchers without execute bits were not noticed"
  step "package without execute bits: backed up, by a copy in the temporary folder"
fi

if [ -n "${PROVE_CONNECTION:-}${PROVE_VAULT:-}" ]; then
  step "not exported and not restored: server or vault are not ours"
elif [ "$major" -lt 17 ]; then
  step "not exported and not restored: pg_restore 18 sets what a server $major does not know"
else
  mkdir "$work/data/export"
  [ "$user" = 0 ] || chown "$user:$user" "$work/data/export"
  in_bare "$work/app" /opt/flexkeep/flexkeep export latest --vault /data/first/vault --to /data/export >"$work/export.log" 2>&1 ||
    { cat "$work/export.log"; die "the export failed"; }
  sql -d postgres -c "CREATE DATABASE restored TEMPLATE template0"
  target="host=server.flexkeep.test port=$port user=backup password=$password sslmode=verify-full sslrootcert=/data/ca.crt"
  in_bare "$work/app" /home/site/wwwroot/pgbin/pg_restore --exit-on-error -d "$target dbname=restored" /data/export/shop.dump
  facts shop >"$work/facts.shop"
  facts restored >"$work/facts.restored"
  diff "$work/facts.shop" "$work/facts.restored" || die "what was restored differs"
  step "exported there, restored there by the package's pg_restore: the same"

  # What the package brings for systems without certificates: with our authority added to its list, it is
  # what makes the connection trusted; without, there is none.
  dump=(/bin/sh -c "PGPASSWORD=$password PGSSLROOTCERT=system exec /home/site/wwwroot/pgbin/pg_dump --schema-only 'host=server.flexkeep.test port=$port user=backup dbname=shop sslmode=verify-full' >/dev/null")
  if in_bare "$work/app" "${dump[@]}" 2>"$work/refused"; then die "an authority that nobody knows was trusted"; fi
  grep -q 'certificate verify failed' "$work/refused" || { cat "$work/refused"; die "refused for another reason"; }
  cat "$work/data/ca.crt" >>"$work/app/pgbin/ca-certificates.crt"
  in_bare "$work/app" "${dump[@]}"
  step "sslrootcert=system: refused by the package's list of authorities, trusted with ours added to it"
fi
echo "prove-package: proved for $(basename "$zip"), $(sha256sum "$zip" | cut -c 1-16)"
