#!/usr/bin/env python3
"""Measures flexkeep against pg_dump and against what the server can send at all.

  bench.py all [--quick] [--keep]              everything; the figures come last, one a line
  bench.py setup [one|mixed]                   load the data and leave the servers running
  bench.py run one|mixed first|repeat          one phase, on servers that setup left running
  bench.py handler                             the function app's handler: start, memory, an empty invocation
  bench.py upload                              the CPU that puts into Blob Storage take, into a process that throws all away
  bench.py restore                             `flexkeep restore` against pg_restore (bench_restore.py)
  bench.py relay                               hand-overs, and lanes in two processes (bench_relay.py)
  bench.py report                              the figures of all phases that were run
  bench.py start | stop | clean                the servers; clean deletes the data too

Two data sets, each on a PostgreSQL 18 server of its own, as flexkeep backs up whole servers:
one (pgbench, a single large table) and mixed (four tables: numeric, timestamptz, jsonb, uuid,
text). In each round the contestants run one after the other, on the same disk, in another order
in every round; medians count. first: a backup into a fresh vault. repeat: one percent of the
rows, the ones with the highest ids, are updated, then a backup into the vault that holds the
earlier ones. The limit: the same rows by COPY over as many raw connections, read and thrown away.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_handler

ROOT = Path(__file__).resolve().parent.parent
CODECS = {"none": "none", "lz4": "lz4", "zstd": "zstd:1"}
LIMIT_SECONDS = 1800

MIXED = """
CREATE TABLE readings (id bigint, at timestamptz, a numeric(12,2), b numeric, c numeric);
INSERT INTO readings SELECT i, '2020-01-01'::timestamptz + i * interval '7.013 s', (hashint8(i) / 100.0)::numeric(12,2),
  hashint8(i + 1) * 1.000001, (i * 7919 % 1000003) / 977.0 FROM generate_series(1::bigint, {readings}) i;
CREATE TABLE events (id bigint, event uuid, at timestamptz, kind text, payload jsonb);
INSERT INTO events SELECT i, md5(i::text)::uuid, '2020-01-01'::timestamptz + i * interval '31.7 s', 'kind ' || i % 23,
  jsonb_build_object('page', '/p/' || hashint8(i) % 5000, 'ms', i % 1931, 'ok', i % 3 = 0, 'session', md5((i / 9)::text))
  FROM generate_series(1::bigint, {events}) i;
CREATE TABLE documents (id bigint, title text, body text);
INSERT INTO documents SELECT i, 'Document ' || i || ', ' || md5(i::text), (SELECT string_agg((ARRAY['the','quick','brown','fox','jumps',
  'over','a','lazy','dog','and','runs','away','from','it','Ümläut','again'])[1 + (abs(hashint8(i * 61 + k)) % 16)], ' ')
  FROM generate_series(1, 60 + i % 40) k) FROM generate_series(1::bigint, {documents}) i;
CREATE TABLE orders (id bigint, customer uuid, at timestamptz, total numeric(12,2), details jsonb, note text);
INSERT INTO orders SELECT i, md5((i % 70001)::text)::uuid, '2020-01-01'::timestamptz + i * interval '51 s', (i % 99999) / 7.0,
  jsonb_build_object('lines', jsonb_build_array(jsonb_build_object('product', hashint8(i) % 5000, 'n', i % 5),
  jsonb_build_object('product', hashint8(i + 7) % 5000, 'n', 1)), 'coupon', NULL),
  CASE WHEN i % 3 = 0 THEN 'please ring at ' || md5(i::text) END FROM generate_series(1::bigint, {orders}) i;
ALTER TABLE readings ADD PRIMARY KEY (id);
ALTER TABLE events ADD PRIMARY KEY (id);
ALTER TABLE documents ADD PRIMARY KEY (id);
ALTER TABLE orders ADD PRIMARY KEY (id);
"""
MIXED_ROWS = {"readings": 5_400_000, "events": 2_200_000, "documents": 800_000, "orders": 1_900_000}
# Fewer digits, a later hour, another state: what changes in real rows.
UPDATES = {
    "one": ["UPDATE pgbench_accounts SET abalance = abalance + 1 + aid % 1000 WHERE aid > (SELECT max(aid) FROM pgbench_accounts) * 0.99"],
    "mixed": [
        "UPDATE readings SET a = a + 1 WHERE id > (SELECT max(id) FROM readings) * 0.99",
        "UPDATE events SET at = at + interval '1 h' WHERE id > (SELECT max(id) FROM events) * 0.99",
        "UPDATE documents SET title = md5(title) WHERE id > (SELECT max(id) FROM documents) * 0.99",
        "UPDATE orders SET total = total + 1 WHERE id > (SELECT max(id) FROM orders) * 0.99",
    ],
}


def say(text=""):
    print(text, flush=True)


def die(text):
    sys.exit(f"bench: {text}")


def pg_bin():
    """The folder of PostgreSQL 18's programs, by the rule of scripts/env.sh."""
    out = subprocess.run([ROOT / "scripts/env.sh"], check=True, capture_output=True, text=True, timeout=60).stdout
    lines = dict(line.removeprefix("export ").split("=", 1) for line in out.splitlines())
    path = Path(lines["FLEXKEEP_PG18_BIN"])
    if not (path / "initdb").exists():
        die(f"no PostgreSQL 18 in {path}: run scripts/setup.sh")
    return path


def environment():
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    # flexkeep runs pg_dump of the server's version.
    clean.update(LC_ALL="C.UTF-8", PATH=f"{BIN}:{clean.get('PATH', '')}")
    return clean


def as_postgres():
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] if os.getuid() == 0 else []


def execute(command, **more):
    """Runs to the end; gives seconds and the peak of resident memory in MiB."""
    log = ARGS.dir / "log"
    with open(log, "wb") as out:
        start = time.monotonic()
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment(), **more)
        timer = signal.signal(signal.SIGALRM, lambda *_: child.kill())
        signal.alarm(LIMIT_SECONDS)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, timer)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if child.returncode != 0:
        die(f"exit code {child.returncode} from {command}\n{log.read_text(errors='replace')[-4000:]}")
    return seconds, usage.ru_maxrss / 1024


class Server:
    """The server of one data set."""

    def __init__(self, name):
        self.name = name
        self.dir = ARGS.dir / name
        self.data = self.dir / "data"

    def socket(self):
        return self.dir / "s"

    def connection(self):
        return f"host={self.socket()} user=postgres dbname={self.name}"

    def pid(self):
        """Of the main process, if it runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
            return pid if os.readlink(f"/proc/{pid}/cwd") == str(self.data) else None
        except (OSError, ValueError):
            return None

    def create(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.socket().mkdir(parents=True)
        for path in (ARGS.dir, self.dir, self.socket()):
            path.chmod(0o755)
        if os.getuid() == 0:
            shutil.chown(self.dir, "postgres", "postgres")
            shutil.chown(self.socket(), "postgres", "postgres")
        execute([*as_postgres(), BIN / "initdb", "--no-sync", "--no-instructions", "-A", "trust", "-U", "postgres",
                 "-E", "UTF8", "--locale", "C.UTF-8", "-D", self.data], cwd=self.dir)
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self.socket()}'\nshared_buffers = {ARGS.buffers}\n"
                       "autovacuum = off\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h\nmaintenance_work_mem = 512MB\n")

    def start(self):
        if self.pid():
            return
        if not self.data.exists():
            die(f"no data in {self.data}: run bench.py setup first")
        with open(self.dir / "log", "ab") as log:
            child = subprocess.Popen([*as_postgres(), BIN / "postgres", "-D", self.data], cwd=self.dir, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log, env=environment(), start_new_session=True)
        for _ in range(1200):
            ready = subprocess.run([BIN / "pg_isready", "-q", "-h", self.socket()], env=environment(), timeout=60, check=False)
            if ready.returncode == 0:
                return
            if child.poll() is not None:
                break
            time.sleep(0.1)
        die(f"the server did not start; see {self.dir / 'log'}")

    def stop(self):
        pid = self.pid()
        if not pid:
            return
        os.kill(pid, signal.SIGINT)
        for _ in range(1200):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            if self.pid() != pid:
                return
            time.sleep(0.1)
        die(f"the server with pid {pid} did not stop")

    def sql(self, text, database=None):
        out = subprocess.run([BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.socket(), "-U", "postgres", "-d", database or self.name],
                             input=text, capture_output=True, text=True, env=environment(), timeout=LIMIT_SECONDS, check=False)
        if out.returncode != 0:
            die(f"psql: {out.stderr}")
        return out.stdout.strip()

    def load(self):
        self.sql(f"CREATE DATABASE {self.name} TEMPLATE template0", "postgres")
        if self.name == "one":
            execute([BIN / "pgbench", "-i", "-I", "dtGp", "-s", ARGS.scale, "-q", "-h", self.socket(), "-U", "postgres", "one"])
        else:
            rows = {table: max(1000, int(count * ARGS.mixed)) for table, count in MIXED_ROWS.items()}
            self.sql(MIXED.format(**rows))
        self.sql("VACUUM (FREEZE, ANALYZE); CHECKPOINT")
        say(f"{self.name}: {self.sql('SELECT pg_size_pretty(pg_database_size(current_database()))')} on disk")

    def update(self):
        self.sql(";".join(UPDATES[self.name]) + "; VACUUM ANALYZE; CHECKPOINT")

    def lanes(self, count):
        """For each lane a file of COPY statements: its share of the pages of every table."""
        tables = self.sql("SELECT oid::regclass || ' ' || pg_relation_size(oid) / 8192 FROM pg_class "
                          "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        files = []
        for lane in range(count):
            lines = []
            for table, pages in (line.split() for line in tables.splitlines()):
                low, high = (int(pages) * k // count for k in (lane, lane + 1))
                # The last one is open, as the table may have grown.
                upper = "" if lane == count - 1 else f" AND ctid < '({high},0)'"
                lines.append(f"COPY (SELECT * FROM ONLY {table} WHERE ctid >= '({low},0)'{upper}) TO STDOUT\n")
            files.append(ARGS.dir / f"limit-{self.name}-{lane}.sql")
            files[-1].write_text("SET max_parallel_workers_per_gather = 0\n" + "".join(lines))
        return files


def settle():
    """Ends what the last contestant has left to do: writing, and what the file system does for some seconds after
    files were deleted. ext4 does not give the inode numbers of deleted files again for a minute or five, and to look
    for another one takes long: a thousand deleted files make the next backup a fiftieth slower. Who backs up has not
    just deleted the last backup, so vaults stay until the next setup."""
    os.sync()
    time.sleep(6)


def size(path):
    """Bytes of all files below."""
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())


def programs():
    """flexkeep and the measure of the limit, built in release mode."""
    if ARGS.flexkeep and ARGS.copy_limit:
        return Path(ARGS.flexkeep).resolve(), Path(ARGS.copy_limit).resolve()
    build = ["cargo", "build", "-q", "--release", "--locked", "-p", "flexkeep-cli"]
    subprocess.run(build, cwd=ROOT, check=True, timeout=LIMIT_SECONDS)
    target = target_folder()
    # It needs nothing but the standard library, where its package needs a hundred crates.
    limit = target / "copy_limit"
    subprocess.run(["rustc", "--edition", "2024", "-O", "tests/src/bin/copy_limit.rs", "-o", limit], cwd=ROOT, check=True, timeout=LIMIT_SECONDS)
    return Path(ARGS.flexkeep or target / "flexkeep").resolve(), limit


class Phase:
    """The rounds of one phase on one data set."""

    def __init__(self, data, kind):
        self.server = Server(data)
        self.kind = kind
        self.flexkeep, self.copy_limit = programs()
        self.vaults = ARGS.dir / "vaults" / f"{data}-{kind}"
        self.vault = self.vaults / "0"
        self.dump = ARGS.dir / "dump"
        self.result = {"seconds": {}, "rss_mib": 0, "stored": None, "lz4": None, "added_percent": 0}

    def ours(self):
        if self.kind == "first":
            # A fresh one; the last ones stay, see settle().
            self.vault = self.vaults / str(int(self.vault.name) + 1)
        settle()
        before = size(self.vault) if self.vault.exists() else 0
        command = [self.flexkeep, "backup", "--from", self.server.connection(), "--vault", self.vault, "--name", "bench", "--lanes", ARGS.lanes]
        seconds, rss = execute(command)
        self.result["rss_mib"] = max(self.result["rss_mib"], rss)
        if self.kind == "first":
            self.result["stored"] = size(self.vault)
        else:
            added = (size(self.vault) - before) / self.first_stored * 100
            self.result["added_percent"] = max(self.result["added_percent"], added)
        return seconds

    def pg_dump(self, codec):
        shutil.rmtree(self.dump, ignore_errors=True)
        settle()
        seconds, _ = execute([BIN / "pg_dump", "-Fd", "-j", ARGS.lanes, f"--compress={CODECS[codec]}", "-f", self.dump, "-d", self.server.connection()])
        if codec == "lz4":
            self.result["lz4"] = size(self.dump)
        shutil.rmtree(self.dump)
        return seconds

    def limit(self):
        files = self.server.lanes(int(ARGS.lanes))
        seconds, _ = execute([self.copy_limit, self.server.socket() / ".s.PGSQL.5432", "postgres", self.server.name, *files])
        return seconds

    def contestants(self):
        codecs = list(CODECS)
        if self.kind == "repeat" and (best := load_results().get(f"{self.server.name} first")):
            codecs = [fastest(best)]
        all_of_them = {"ours": self.ours, "limit": self.limit}
        all_of_them.update({f"pg_dump {c}": lambda c=c: self.pg_dump(c) for c in codecs})
        chosen = {n: f for n, f in all_of_them.items() if not ARGS.only or n.split()[0] in ARGS.only}
        return list(chosen.items())

    def run(self):
        self.server.start()
        say(f"\n{self.server.name} {self.kind}: {ARGS.rounds} rounds, {ARGS.lanes} lanes")
        if self.vaults.exists():
            shutil.rmtree(self.vaults)
            say("waiting for a minute, as vaults of the last run were deleted")
            time.sleep(60)
        self.vaults.mkdir(parents=True)
        self.limit()  # warms up
        if self.kind == "repeat":
            if not ARGS.only or "ours" in ARGS.only:
                execute([self.flexkeep, "backup", "--from", self.server.connection(), "--vault", self.vault, "--name", "bench", "--lanes", ARGS.lanes])
                self.first_stored = size(self.vault)
        order = self.contestants()
        for number in range(ARGS.rounds):
            if self.kind == "repeat":
                self.server.update()
            turn = number % len(order)
            for name, contestant in order[turn:] + order[:turn]:
                seconds = contestant()
                self.result["seconds"].setdefault(name, []).append(seconds)
                say(f"  round {number + 1}  {name:<14}{seconds:8.2f} s")
        for name, seconds in self.result["seconds"].items():
            say(f"  median   {name:<14}{statistics.median(seconds):8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
        results = load_results()
        key = f"{self.server.name} {self.kind}"
        if ARGS.only and key in results:
            # The others' times stay from the last whole run.
            old = results[key]
            self.result["seconds"] = {**old["seconds"], **self.result["seconds"]}
            self.result = {k: v or old[k] for k, v in self.result.items()}
        results[key] = self.result
        (ARGS.dir / "results.json").write_text(json.dumps(results, indent=1))


def load_results():
    try:
        return json.loads((ARGS.dir / "results.json").read_text())
    except FileNotFoundError:
        return {}


def fastest(result):
    """The codec by which pg_dump was fastest."""
    medians = {n.split()[1]: statistics.median(s) for n, s in result["seconds"].items() if n.startswith("pg_dump ")}
    return min(medians, key=medians.get) if medians else "lz4"


def report():
    results = load_results()
    others = [results.pop(name, {}) for name in ("handler", "upload", "restore", "relay")]
    lines = [(name, value, unit) for other in others for name, (value, unit) in other.items()]
    for kind in ("first", "repeat"):
        for data in ("one", "mixed"):
            result = results.get(f"{data} {kind}")
            if not result or "ours" not in result["seconds"]:
                continue
            median = {n: statistics.median(s) for n, s in result["seconds"].items()}
            dumps = [m for n, m in median.items() if n.startswith("pg_dump ")]
            if dumps:
                lines.append((f"{kind}_{data}_vs_pg_dump", min(dumps) / median["ours"], "x"))
            if "limit" in median:
                lines.append((f"{kind}_{data}_vs_limit", median["ours"] / median["limit"], "x"))
            if kind == "first" and result["stored"] and result["lz4"]:
                lines.append((f"stored_{data}_vs_lz4", result["stored"] / result["lz4"], "x"))
    added = [r["added_percent"] for k, r in results.items() if k.endswith("repeat") and "ours" in r["seconds"]]
    if added:
        lines.append(("stored_second_percent", max(added), "%"))
    rss = [r["rss_mib"] for r in results.values() if r["rss_mib"]]
    if rss:
        lines.append(("peak_rss_mib", max(rss), "MiB"))
    say()
    for name, value, unit in sorted(lines):
        say(f"{name} {value:.3f} {unit}")


def setup(names):
    ARGS.dir.mkdir(parents=True, exist_ok=True)
    ARGS.dir.chmod(0o755)
    need = ARGS.scale * 40 + ARGS.mixed * 10000 + 2000
    free = shutil.disk_usage(ARGS.dir).free / 2**20
    if free < need:
        die(f"{ARGS.dir} has {free:.0f} MiB free, and about {need:.0f} are needed: use --dir or a smaller --scale")
    (ARGS.dir / "results.json").unlink(missing_ok=True)
    shutil.rmtree(ARGS.dir / "vaults", ignore_errors=True)
    for name in names:
        server = Server(name)
        server.stop()
        server.create()
        server.start()
        server.load()


def everything():
    try:
        for name in ("one", "mixed"):
            setup_one(name)
            for kind in ("first", "repeat"):
                Phase(name, kind).run()
            Server(name).stop()
        run_handler()
        run_upload()
        for name in ("restore", "relay"):
            run_other(name)
        report()
    finally:
        if not ARGS.keep:
            clean()


def run_handler():
    """Measures the handler, and keeps the figures beside those of the phases."""
    say("handler: start, idle memory, empty invocations")
    subprocess.run(["cargo", "build", "-q", "--release", "--locked", "-p", "flexkeep-handlers"], cwd=ROOT, check=True, timeout=LIMIT_SECONDS)
    ARGS.dir.mkdir(parents=True, exist_ok=True)
    results = load_results()
    results["handler"] = bench_handler.measure(target_folder() / "flexkeep-handler")
    (ARGS.dir / "results.json").write_text(json.dumps(results))


def run_upload():
    """Measures puts into Blob Storage, and keeps the figures beside those of the phases."""
    say("upload: CPU of puts into a sink")
    build = ["cargo", "build", "-q", "--release", "--locked", "-p", "flexkeep-vault-azure", "--example", "upload_sink"]
    subprocess.run(build, cwd=ROOT, check=True, timeout=LIMIT_SECONDS)
    ARGS.dir.mkdir(parents=True, exist_ok=True)
    command = [target_folder() / "examples/upload_sink", "1" if ARGS.quick else "4"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS).stdout
    found = {line.split()[0]: float(line.split()[1]) for line in said.splitlines()}
    results = load_results()
    results["upload"] = {
        "upload_gb_per_core_second": (found["upload_gb_per_core_second"], "GB"),
        "upload_peak_mib": (found["peak_rss"], "MiB"),
    }
    (ARGS.dir / "results.json").write_text(json.dumps(results, indent=1))


def run_other(name):
    """Runs a benchmark of its own, and keeps its figures beside those of the phases."""
    figures = ARGS.dir / "figures.json"
    figures.unlink(missing_ok=True)
    command = [sys.executable, ROOT / f"scripts/bench_{name}.py", "--dir", ARGS.dir, "--rounds", str(ARGS.rounds), "--buffers", ARGS.buffers,
               "--figures", figures, "--keep"]
    if ARGS.quick:
        command += ["--scale", str(ARGS.scale)] + (["--mixed", str(ARGS.mixed)] if name == "restore" else [])
    if subprocess.run(command, check=False, timeout=4 * LIMIT_SECONDS).returncode != 0:
        die(f"bench_{name}.py failed")
    results = load_results()
    results[name] = {figure: (value, unit) for figure, value, unit in json.loads(figures.read_text())}
    (ARGS.dir / "results.json").write_text(json.dumps(results))


def target_folder():
    meta = subprocess.run(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True,
                          capture_output=True, timeout=120).stdout
    return Path(json.loads(meta)["target_directory"]) / "release"


def setup_one(name):
    kept = load_results() if name != "one" else {}
    setup([name])
    (ARGS.dir / "results.json").write_text(json.dumps(kept))


def clean():
    for name in ("one", "mixed"):
        Server(name).stop()
    shutil.rmtree(ARGS.dir, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["all", "setup", "run", "report", "handler", "upload", "restore", "relay", "start", "stop", "clean"])
    parser.add_argument("words", nargs="*", help="run: one|mixed first|repeat; setup, start, stop: one and/or mixed")
    parser.add_argument("--dir", type=Path, default=Path(f"/var/tmp/flexkeep-bench-{os.getuid()}"), help="data, vault and dumps, on one disk")
    parser.add_argument("--scale", type=int, default=300, help="of pgbench; 300 is 3 GB of text")
    parser.add_argument("--mixed", type=float, default=1.0, help="size of the mixed data; 1 is 1.5 GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", default="2", help="of flexkeep, pg_dump -j and the limit")
    parser.add_argument("--buffers", default="4GB", help="shared_buffers")
    parser.add_argument("--only", nargs="+", choices=["ours", "limit", "pg_dump"], help="measure just these")
    parser.add_argument("--flexkeep", help="the command to measure, instead of building it")
    parser.add_argument("--copy-limit", help="the built copy_limit, instead of building it")
    parser.add_argument("--quick", action="store_true", help="small data and two rounds: a try of the harness")
    parser.add_argument("--keep", action="store_true", help="all: leave the data")
    args = parser.parse_args()
    if args.quick:
        args.scale, args.mixed, args.rounds, args.buffers = 5, 0.02, 2, "512MB"
    args.dir = args.dir.resolve()
    # A socket's path must be shorter than 108 bytes.
    if len(str(args.dir)) > 70:
        parser.error("--dir is too long for a socket's path")
    known = {"run": [{"one", "mixed"}, {"first", "repeat"}]}.get(args.action)
    if known and (len(args.words) != 2 or any(w not in k for w, k in zip(args.words, known))):
        parser.error("run needs a data set (one, mixed) and a phase (first, repeat)")
    if not known and set(args.words) - {"one", "mixed"}:
        parser.error("data sets are one and mixed")
    return args


if __name__ == "__main__":
    ARGS = arguments()
    BIN = pg_bin()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    NAMES = ARGS.words or ["one", "mixed"]
    if ARGS.action == "all":
        everything()
    elif ARGS.action == "setup":
        setup(NAMES)
    elif ARGS.action == "run":
        Phase(*ARGS.words).run()
        report()
    elif ARGS.action == "report":
        report()
    elif ARGS.action == "handler":
        run_handler()
        report()
    elif ARGS.action == "upload":
        run_upload()
        report()
    elif ARGS.action in ("restore", "relay"):
        ARGS.dir.mkdir(parents=True, exist_ok=True)
        run_other(ARGS.action)
        report()
    elif ARGS.action == "clean":
        clean()
    else:
        for each in NAMES:
            getattr(Server(each), ARGS.action)()
