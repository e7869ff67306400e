#!/usr/bin/env python3
"""count-tests.py FILE: adds up the summaries of cargo test and nextest in FILE; fails if nothing ran."""
import re
import sys

text = re.sub(r"\x1b\[[0-9;]*m", "", open(sys.argv[1], errors="replace").read())
passed = failed = ignored = 0
for line in re.findall(r"^test result: .*$", text, re.M):
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|ignored)", line)}
    passed += counts["passed"]
    failed += counts["failed"]
    ignored += counts["ignored"]
for line in re.findall(r"^ *Summary \[.*$", text, re.M):
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|timed out|exec failed|skipped)", line)}
    passed += counts.get("passed", 0)
    failed += counts.get("failed", 0) + counts.get("timed out", 0) + counts.get("exec failed", 0)
    ignored += counts.get("skipped", 0)
print(f"\n{passed} passed, {failed} failed, {ignored} ignored")
sys.exit(failed > 0 or passed == 0)
