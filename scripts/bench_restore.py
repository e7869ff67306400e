#!/usr/bin/env python3
"""Measures `flexkeep restore` against stock pg_restore.

  bench_restore.py [--dir DIR] [--rounds N] [--scale N] [--mixed X] [--lanes N] [--flexkeep PATH] [--figures FILE] [--keep]

Two data sets, as in bench.py: one (pgbench, a single large table with a primary key) and mixed (four tables
with primary keys and one more index each). Each is backed up once by flexkeep and once by pg_dump -Fc, whose compression (zstd:1, lz4, none)
is the one that pg_restore is fastest with on this data. Then both are restored, into a
new database of the same PostgreSQL 18 server, in turn, in another order in every round, on the same disk. Medians count.
restore_*_vs_pg_restore is the time of `pg_restore -j LANES` divided by that of flexkeep, both from start to end.
After every restore the rows of all tables are counted, and the indexes.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE / "bench.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
say = bench.say

MORE_INDEXES = """
CREATE INDEX ON readings (at);
CREATE INDEX ON events (kind, at);
CREATE INDEX ON documents (title);
CREATE INDEX ON orders (customer);
"""
CODECS = ["zstd:1", "lz4", "none"]


def facts(server, database):
    """Counts of rows and indexes, to see that nothing is missing."""
    tables = server.sql("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1", database)
    counts = [(table, server.sql(f"SELECT count(*) FROM {table}", database)) for table in tables.split()]
    indexes = server.sql("SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace", database)
    return counts, indexes


class Restores:
    def __init__(self, name, flexkeep):
        self.server = bench.Server(name)
        self.flexkeep = flexkeep
        self.vault = ARGS.dir / "vault"
        self.seconds = {}

    def prepare(self):
        self.server.start()
        if self.server.name == "mixed" and facts(self.server, "mixed")[1] == "4":
            self.server.sql(MORE_INDEXES)
        self.expected = facts(self.server, self.server.name)
        bench.shutil.rmtree(self.vault, ignore_errors=True)
        bench.execute([self.flexkeep, "backup", "--from", self.server.connection(), "--vault", self.vault, "--name", "bench", "--lanes", ARGS.lanes])
        best = {}
        for codec in CODECS:
            bench.execute([bench.BIN / "pg_dump", "-Fc", f"--compress={codec}", "-f", self.dump(codec), "-d", self.server.connection()])
            best[codec] = self.stock(codec)
            say(f"  pg_restore from {codec:<8}{best[codec]:8.2f} s")
        self.codec = min(best, key=best.get)
        for codec in CODECS:
            if codec != self.codec:
                self.dump(codec).unlink()

    def dump(self, codec):
        return ARGS.dir / f"{self.server.name}-{codec.replace(':', '')}.dump"

    def fresh(self):
        self.server.sql("DROP DATABASE IF EXISTS copy", "postgres")
        self.server.sql("CHECKPOINT", "postgres")
        os.sync()

    def check(self):
        found = facts(self.server, "copy")
        if found != self.expected:
            bench.die(f"the copy is not the original: {found} instead of {self.expected}")

    def stock(self, codec=None):
        self.fresh()
        self.server.sql("CREATE DATABASE copy TEMPLATE template0", "postgres")
        connection = f"host={self.server.socket()} user=postgres dbname=copy"
        seconds, _ = bench.execute([bench.BIN / "pg_restore", "-j", ARGS.lanes, "-d", connection, self.dump(codec or self.codec)])
        self.check()
        return seconds

    def ours(self):
        self.fresh()
        into = f"host={self.server.socket()} user=postgres dbname=postgres"
        seconds, rss = bench.execute([self.flexkeep, "restore", "latest", "--vault", self.vault, "--into", into,
                                      "--database", self.server.name, "--as", "copy", "--lanes", ARGS.lanes])
        self.rss = max(getattr(self, "rss", 0), rss)
        self.check()
        return seconds

    def run(self):
        say(f"\n{self.server.name}: {ARGS.rounds} rounds, {ARGS.lanes} lanes, pg_restore from {self.codec}")
        order = [("ours", self.ours), ("pg_restore", self.stock)]
        for number in range(ARGS.rounds):
            turn = number % 2
            for name, contestant in order[turn:] + order[:turn]:
                seconds = contestant()
                self.seconds.setdefault(name, []).append(seconds)
                say(f"  round {number + 1}  {name:<12}{seconds:8.2f} s")
        for name, seconds in self.seconds.items():
            say(f"  median   {name:<12}{statistics.median(seconds):8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
        self.fresh()
        median = {name: statistics.median(seconds) for name, seconds in self.seconds.items()}
        return median["pg_restore"] / median["ours"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=[], help="one and/or mixed; both if not given")
    parser.add_argument("--dir", type=Path, default=Path(f"/var/tmp/flexkeep-bench-{os.getuid()}"), help="as of bench.py, whose data is used if it is there")
    parser.add_argument("--scale", type=int, default=100, help="of pgbench; 100 is 1 GB of text")
    parser.add_argument("--mixed", type=float, default=1.0, help="size of the mixed data; 1 is 1.5 GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", default="2", help="of flexkeep, and pg_restore -j")
    parser.add_argument("--buffers", default="4GB", help="shared_buffers")
    parser.add_argument("--flexkeep", help="the command to measure, instead of building it")
    parser.add_argument("--figures", type=Path, help="write the figures into this file too, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the data")
    args = parser.parse_args()
    args.dir = args.dir.resolve()
    if set(args.words) - {"one", "mixed"}:
        parser.error("data sets are one and mixed")
    return args


def main():
    flexkeep = ARGS.flexkeep
    if not flexkeep:
        subprocess.run(["cargo", "build", "-q", "--release", "--locked", "-p", "flexkeep-cli"], cwd=bench.ROOT, check=True, timeout=bench.LIMIT_SECONDS)
        flexkeep = bench.target_folder() / "flexkeep"
    figures = []
    for name in ARGS.words or ["one", "mixed"]:
        server = bench.Server(name)
        if not server.data.exists():
            # Room is needed for this data set only.
            bench.ARGS = argparse.Namespace(**{**vars(ARGS), **({"mixed": 0} if name == "one" else {"scale": 0})})
            bench.setup([name])
            bench.ARGS = ARGS
        restores = Restores(name, Path(flexkeep).resolve())
        try:
            restores.prepare()
            figures.append((f"restore_{name}_vs_pg_restore", restores.run(), "x"))
            figures.append((f"restore_{name}_peak_rss", restores.rss, "MiB"))
        finally:
            server.stop()
            bench.shutil.rmtree(ARGS.dir / "vault", ignore_errors=True)
            for codec in CODECS:
                restores.dump(codec).unlink(missing_ok=True)
            if not ARGS.keep:
                bench.shutil.rmtree(server.dir, ignore_errors=True)
    if ARGS.figures:
        ARGS.figures.write_text(json.dumps(figures))
    say()
    for name, value, unit in figures:
        say(f"{name} {value:.3f} {unit}")


if __name__ == "__main__":
    ARGS = arguments()
    bench.ARGS = ARGS
    bench.BIN = bench.pg_bin()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
