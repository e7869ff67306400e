"""Measures the handler process as the Functions host sees it: how soon it answers after its
start, what it holds in memory when idle, and what an invocation with nothing to do takes.

The invocation is a request for a path of the API that does not exist: it goes through all of the
host's contract (envelope, decoding, dispatch, answer) and does no work. One keep-alive connection,
one request after the other, as the host's client does it; client and handler share the machine.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

STARTS = 21
WARM_UP = 500
INVOCATIONS = 5000
IDLE_SECONDS = 3
ENVELOPE = json.dumps({
    "Data": {"request": {
        "Url": "http://localhost:7071/api/nothing", "Method": "GET", "Query": {}, "Headers": {"Host": ["localhost:7071"]},
        "Params": {"path": "nothing"}, "Identities": [],
    }},
    "Metadata": {"path": "\"nothing\"", "sys": {
        "MethodName": "api", "UtcNow": "2026-11-22T11:50:35.1234567Z", "RandGuid": "6f1e0a6e-65a5-4f6a-9c52-0d6a8f1c2b3d"}},
}).encode()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Handler:
    """A handler process in an app folder of its own."""

    def __init__(self, program, folder):
        self.port = free_port()
        environment = {
            "PATH": os.environ["PATH"], "FUNCTIONS_CUSTOMHANDLER_PORT": str(self.port), "FUNCTIONS_APP_ROOT_PATH": str(folder),
            "FLEXKEEP_POLICY": "policy.toml", "FLEXKEEP_BUS": "sqlite:queues.db", "FLEXKEEP_QUEUE": "backups", "FLEXKEEP_LANES_QUEUE": "lanes", "FLEXKEEP_RESTORE_QUEUE": "restores", "FLEXKEEP_EVENTS": "log",
        }
        self.started = time.perf_counter()
        self.process = subprocess.Popen([program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self):
        """Milliseconds from the start to the first answer."""
        while time.perf_counter() - self.started < 10:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                return (time.perf_counter() - self.started) * 1000
            except ConnectionRefusedError:
                time.sleep(0.0005)
            finally:
                connection.close()
        raise SystemExit("the handler did not answer within 10 s")

    def idle_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def invocations_ms(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.connect()
        # Python sends head and body apart; without this the second waits for the first's receipt.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Azure-Functions-InvocationId": "5b6c7f9e-3f2a-4a44-9a53-1f0b7f9e3f2a"}
        times = []
        for number in range(WARM_UP + INVOCATIONS):
            began = time.perf_counter()
            connection.request("POST", "/api", body=ENVELOPE, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            took = (time.perf_counter() - began) * 1000
            if answer.status != 200 or b"there is no /api/nothing" not in body:
                raise SystemExit(f"the handler answered {answer.status}: {body[:200]}")
            if number >= WARM_UP:
                times.append(took)
        connection.close()
        return sorted(times)

    def stop(self):
        self.process.kill()
        self.process.wait(timeout=10)


def measure(program):
    """Figures by name, with their units."""
    with tempfile.TemporaryDirectory(prefix="flexkeep-bench-") as folder:
        starts = []
        for _ in range(STARTS):
            handler = Handler(program, folder)
            try:
                starts.append(handler.wait())
            finally:
                handler.stop()
        handler = Handler(program, folder)
        try:
            handler.wait()
            times = handler.invocations_ms()
            time.sleep(IDLE_SECONDS)
            idle = handler.idle_mib()
        finally:
            handler.stop()
    return {
        "handler_start_ms": (statistics.median(starts), "ms"),
        "handler_idle_mib": (idle, "MiB"),
        "invoke_p50_ms": (times[len(times) // 2], "ms"),
        "invoke_p99_ms": (times[len(times) * 99 // 100], "ms"),
    }
