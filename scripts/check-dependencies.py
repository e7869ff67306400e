#!/usr/bin/env python3
"""Fails if a direct dependency of a crate is not on docs/dependencies.md, which promises each."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
page = root / "docs" / "dependencies.md"
named = set(re.findall(r"[A-Za-z0-9_-]+", page.read_text(encoding="utf-8")))
manifests = [path for path in root.glob("**/Cargo.toml") if "target" not in path.relative_to(root).parts]
seen, missing = 0, []
for manifest in manifests:
    if manifest.parent == root:
        continue  # The workspace, which names its own crates only.
    section = ""
    # By lines, as Python has a reader of TOML from 3.11 on only.
    for line in manifest.read_text(encoding="utf-8").splitlines():
        header = re.match(r"\[(.+)\]", line)
        entry = re.match(r"([A-Za-z0-9_-]+)\s*[.=]", line)
        if header:
            section = header[1]
        elif entry and section.endswith("dependencies") and not entry[1].startswith("flexkeep"):
            seen += 1
            if entry[1] not in named:
                missing.append(f"{manifest.relative_to(root)}: {entry[1]}")
if seen < 100:
    sys.exit(f"only {seen} dependencies were found in {len(manifests)} Cargo.toml files below {root}")
if missing:
    sys.exit(f"not in {page.relative_to(root)}:\n  " + "\n  ".join(sorted(missing)))
