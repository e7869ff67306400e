#!/usr/bin/env python3
"""Measures what the relay costs: hand-overs, and lanes in two processes instead of one.

  bench_relay.py [--dir DIR] [--rounds N] [--scale N] [--lanes N] [--seconds N] [--figures FILE] [--built] [--keep]

The function app runs as `flexkeep host` with the handler built in release mode, on a PostgreSQL 18 server with one large
table (pgbench; the data of bench.py in the same --dir are used if they are there). Each contestant backs the
server up into a fresh vault, one after the other, in another order in every round; medians count. A time is
from the request's message to the event that tells the completed backup.

one           both lanes in one handler process, no hand-over
two           lane 0 in one handler process, lane 1 in that of another host on the same queue, no hand-over
hand_overs    as one, but each lane hands over every --seconds seconds
command       `flexkeep backup`, whose lanes are tasks of its one process, for comparison

two_process_vs_one is the time of one over that of two: 1 is no loss. relay_overhead_percent is what hand_overs takes
longer than one. Every backup must be whole, of one attempt, with the number of holders that belongs to it.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("bench", HERE / "bench.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)
say = bench.say

LIMIT_SECONDS = 600
FUNCTIONS = {"schedule", "backup", "lane", "restore", "api"}


class Host:
    """A host with some of the functions, whose queues and vault are in `folder`."""

    def __init__(self, name, folder, functions, settings):
        self.app = folder / name
        self.log = folder / f"{name}.log"
        bench.execute([HERE / "app.sh", HANDLER, self.app])
        example = json.loads((self.app / "local.settings.example.json").read_text())
        off = {f"AzureWebJobs.{function}.Disabled": "true" for function in FUNCTIONS - functions}
        example["Values"] |= settings | off
        (self.app / "local.settings.json").write_text(json.dumps(example))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([FLEXKEEP, "host", "--app", self.app, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=bench.environment())

    def url(self):
        """Its address, as soon as its handler answers."""
        for _ in range(3000):
            text = self.log.read_text()
            if "listening on http://" in text and "started the handler" in text:
                return "http://" + text.split("listening on http://")[1].split()[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        bench.die(f"the host did not start:\n{self.log.read_text()}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


class Relay:
    def __init__(self):
        self.server = bench.Server("one")
        self.seconds = {}
        self.holders = {}

    def settings(self, folder, lane_seconds):
        return {
            "FLEXKEEP_TICK": "0 0 0 29 2 *", "FLEXKEEP_PG_BIN": str(bench.BIN), "FLEXKEEP_LANE_SECONDS": str(lane_seconds),
            "FLEXKEEP_BUS": f"sqlite:{folder}/queues.db", "FLEXKEEP_EVENTS": f"file:{folder}/events.jsonl",
            "FLEXKEEP_POLICY": str(folder / "policy.toml"),
        }

    def policy(self, folder):
        connection = self.server.connection()
        return (f'[vault]\nplace = "{folder}/vault"\n\n[[server]]\nname = "bench"\nconnection = "{connection}"\nlanes = {ARGS.lanes}\n'
                'schedule = { every = "week", on = "sunday", at = "02:30", zone = "UTC" }\n')

    def relay(self, hosts, lane_seconds=86400):
        """Seconds of a backup by hosts with these functions."""
        folder = ARGS.dir / "relay"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "policy.toml").write_text(self.policy(folder))
        self.server.sql("CHECKPOINT")
        bench.settle()
        running = []
        try:
            for number, functions in enumerate(hosts):
                running.append(Host(f"host-{number}", folder, functions, self.settings(folder, lane_seconds)))
            urls = [host.url() for host in running]
            request = urllib.request.Request(f"{urls[0]}/api/backups", json.dumps({"server": "bench"}).encode(), {"content-type": "application/json"})
            began = time.monotonic()
            urllib.request.urlopen(request, timeout=60).read()
            event = self.completed(folder, running)
            seconds = time.monotonic() - began
        finally:
            for host in running:
                host.stop()
        manifest = json.loads((folder / f"vault/backups/bench/{event['backup']}.json").read_text())
        shutil.rmtree(folder / "vault")
        database = next(d for d in manifest["databases"] if d["name"] == "one")
        if database["attempts"] != 1:
            bench.die(f"not a whole backup at the first attempt: {database}")
        return seconds, len(database["holders"])

    def completed(self, folder, hosts):
        events = folder / "events.jsonl"
        until = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < until:
            for line in events.read_text().splitlines() if events.exists() else []:
                if '"flexkeep.backup.completed"' in line:
                    return json.loads(line)["data"]
                if '"flexkeep.backup.failed"' in line:
                    bench.die(line)
            time.sleep(0.01)
        bench.die("no completed backup in time:\n" + "\n".join(host.log.read_text()[-3000:] for host in hosts))

    def one(self):
        return self.relay([FUNCTIONS])

    def two(self):
        return self.relay([FUNCTIONS - {"lane"}, {"lane", "api"}])

    def hand_overs(self):
        return self.relay([FUNCTIONS], ARGS.seconds)

    def command(self):
        vault = ARGS.dir / "relay-command"
        shutil.rmtree(vault, ignore_errors=True)
        self.server.sql("CHECKPOINT")
        bench.settle()
        seconds, _ = bench.execute([FLEXKEEP, "backup", "--from", self.server.connection(), "--vault", vault, "--name", "bench", "--lanes", ARGS.lanes])
        shutil.rmtree(vault)
        return seconds, None

    def run(self):
        self.server.start()
        order = [("one", self.one), ("two", self.two), ("hand_overs", self.hand_overs), ("command", self.command)]
        self.command()  # warms up
        for number in range(ARGS.rounds):
            turn = number % len(order)
            for name, contestant in order[turn:] + order[:turn]:
                seconds, holders = contestant()
                self.seconds.setdefault(name, []).append(seconds)
                if holders is not None:
                    self.holders.setdefault(name, []).append(holders)
                    if name != "hand_overs" and holders != int(ARGS.lanes):
                        bench.die(f"{holders} holders of the snapshot where {ARGS.lanes} were to be")
                say(f"  round {number + 1}  {name:<12}{seconds:8.2f} s" + (f"  {holders} holders" if holders else ""))
        median = {name: statistics.median(seconds) for name, seconds in self.seconds.items()}
        for name, seconds in self.seconds.items():
            say(f"  median   {name:<12}{median[name]:8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
        return [
            ("two_process_vs_one", median["one"] / median["two"], "x"),
            ("relay_overhead_percent", (median["hand_overs"] / median["one"] - 1) * 100, "%"),
            ("relay_hand_overs", statistics.median(self.holders["hand_overs"]) - int(ARGS.lanes), "hand-overs"),
            ("relay_vs_command", median["one"] / median["command"], "x"),
        ]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path(f"/var/tmp/flexkeep-bench-{os.getuid()}"), help="as of bench.py, whose data is used if it is there")
    parser.add_argument("--scale", type=int, default=300, help="of pgbench; 300 is 3 GB of text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", default="2")
    parser.add_argument("--seconds", type=int, default=5, help="how long a lane works before it hands over")
    parser.add_argument("--buffers", default="4GB", help="shared_buffers")
    parser.add_argument("--built", action="store_true", help="the release build is there: do not build")
    parser.add_argument("--figures", type=Path, help="write the figures into this file too, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the data")
    args = parser.parse_args()
    args.dir, args.mixed = args.dir.resolve(), 0
    return args


def main():
    server = bench.Server("one")
    if not server.data.exists():
        bench.setup(["one"])
    relay = Relay()
    try:
        figures = relay.run()
    finally:
        server.stop()
        shutil.rmtree(ARGS.dir / "relay", ignore_errors=True)
        if not ARGS.keep:
            shutil.rmtree(server.dir, ignore_errors=True)
    if ARGS.figures:
        ARGS.figures.write_text(json.dumps(figures))
    say()
    for name, value, unit in figures:
        say(f"{name} {value:.3f} {unit}")


if __name__ == "__main__":
    ARGS = arguments()
    bench.ARGS = ARGS
    bench.BIN = bench.pg_bin()
    if not ARGS.built:
        subprocess.run(["cargo", "build", "-q", "--release", "--locked", "-p", "flexkeep-cli", "-p", "flexkeep-handlers"], cwd=bench.ROOT, check=True,
                       timeout=bench.LIMIT_SECONDS)
    FLEXKEEP, HANDLER = bench.target_folder() / "flexkeep", bench.target_folder() / "flexkeep-handler"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
