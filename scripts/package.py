#!/usr/bin/env python3
"""package.py: puts the zip for Azure Functions together. scripts/package.sh builds what goes into it.

The same input gives the same bytes. Each file of PostgreSQL comes from an unpacked Debian root
(scripts/aptroot.sh with APTROOT_AS_IS=yes), whose own loader says which libraries are needed.
"""

import argparse
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# Without psql: the handler does not need it, and it would bring readline, which is under the GPL.
PROGRAMS = ["pg_dump", "pg_dumpall", "pg_restore"]
LOADER = "ld-linux-x86-64.so.2"
# The oldest glibc that the handler must run on.
GLIBC = (2, 28)
# What the handler may need of the system: parts of glibc, and nothing else.
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", LOADER}
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|notice|copyright|unlicense)")


class Failed(Exception):
    """What is wrong, and the way out."""


def run(*command):
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, cwd=CHECKOUT
    )
    if result.returncode != 0:
        raise Failed(f"{command[0]} failed: {result.stderr.strip()}")
    return result.stdout


class Package:
    """The files of the zip: name to content and mode."""

    def __init__(self):
        self.files = {}

    def add(self, name, content, mode=0o644):
        if name in self.files:
            raise Failed(f"two files want to be {name}")
        self.files[name] = (content, mode)

    def write(self, out):
        new = out.with_name(out.name + ".new")
        with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(self.files):
                content, mode = self.files[name]
                entry = zipfile.ZipInfo(name, FIXED_TIME)
                entry.create_system = 3  # Unix: only then do readers look at the mode
                entry.external_attr = (stat.S_IFREG | mode) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)
        os.replace(new, out)

    def unpack(self, folder):
        """The same files and modes as a folder, which is made anew."""
        if folder.exists() and any(folder.iterdir()) and not (folder / "host.json").is_file():
            raise Failed(f"{folder} is not empty, and no function app that could be replaced")
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        for name, (content, mode) in self.files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(new, folder)

    def report(self, out):
        parts = {}
        with zipfile.ZipFile(out) as archive:
            for entry in archive.infolist():
                part = part_of(entry.filename)
                raw, packed = parts.get(part, (0, 0))
                parts[part] = (raw + entry.file_size, packed + entry.compress_size)
        print(f"{'part':<44}{'MiB':>8}{'zipped':>9}")
        for part, (raw, packed) in sorted(parts.items(), key=lambda item: -item[1][0]):
            print(f"{part:<44}{raw / 2**20:8.1f}{packed / 2**20:9.1f}")
        raw = sum(raw for raw, _ in parts.values())
        print(f"{'all':<44}{raw / 2**20:8.1f}{out.stat().st_size / 2**20:9.1f}")


def part_of(name):
    if name.startswith("pgbin/libexec/"):
        return "pgbin/libexec: " + ", ".join(PROGRAMS)
    if name.startswith("pgbin/lib/"):
        return "pgbin/lib: the loader and the libraries"
    if name.startswith("licenses/"):
        return "licenses"
    if name == "flexkeep-handler":
        return name
    return "launchers, certificates, functions, policy"


def add_app(package, handler, policy):
    package.add("host.json", (CHECKOUT / "host.json").read_bytes())
    functions = sorted((CHECKOUT / "handlers").glob("*/function.json"))
    if not functions:
        raise Failed(f"{CHECKOUT}/handlers has no function.json")
    for function in functions:
        package.add(f"{function.parent.name}/function.json", function.read_bytes())
    package.add("flexkeep-handler", handler.read_bytes(), 0o755)
    package.add("policy.toml", policy_text(policy))


def policy_text(path):
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Failed(f"policy {path} is not UTF-8: {error.reason}") from error
    try:
        import tomllib
    except ImportError:  # Python 3.10 and older; the handler reads it strictly in any case
        return content
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failed(f"policy {path} is no TOML: {error}") from error
    return content


def needed_libraries(program):
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", program))


def check_handler(handler):
    """Refuses a handler that would not start on the oldest system that is promised."""
    header = run("readelf", "-h", handler)
    if "ELF64" not in header or "X86-64" not in header:
        raise Failed(f"{handler} is no x86-64 program")
    foreign = set(needed_libraries(handler)) - SYSTEM_LIBRARIES
    if foreign:
        raise Failed(f"{handler} needs {', '.join(sorted(foreign))}, which the host may not have")
    versions = {
        tuple(int(part) for part in found.split("."))
        for found in re.findall(r"Name: GLIBC_([0-9.]+)", run("readelf", "-V", handler))
    }
    if not versions or max(versions) > GLIBC:
        newest = ".".join(map(str, max(versions, default=(0,))))
        wanted = ".".join(map(str, GLIBC))
        raise Failed(f"{handler} needs glibc {newest}, not {wanted}: build it by `make package`")


class DebianRoot:
    """An unpacked root with PostgreSQL's client and all that it needs."""

    def __init__(self, root):
        self.root = root
        self.library_folder = root / "usr/lib/x86_64-linux-gnu"
        self.loader = self.library_folder / LOADER
        folders = [f for f in (root / "usr/lib/postgresql").glob("*/bin") if f.parent.name.isdigit()]
        if len(folders) != 1 or not self.loader.exists():
            raise Failed(f"{root} holds no single PostgreSQL client with its loader")
        self.programs = folders[0]
        self.used = set()  # real paths of what is taken, for their licences

    def take(self, path):
        real = path.resolve()
        if not real.is_relative_to(self.root):
            raise Failed(f"{path} leads out of {self.root}")
        self.used.add(real)
        return real.read_bytes()

    def libraries(self, program):
        """Paths of all libraries that the program needs, by name."""
        listed = run(
            self.loader, "--inhibit-cache", "--library-path", self.library_folder, "--list", program
        )
        found = {}
        for line in listed.splitlines():
            name, _, rest = line.strip().partition(" => ")
            # The loader itself is listed under the path that a program names, the kernel's own without a file.
            if not rest:
                continue
            if rest.startswith("not found"):
                raise Failed(f"{program} needs {name}, which {self.root} lacks")
            if Path(name).name != LOADER:
                found[name] = Path(rest.rsplit(" (", 1)[0])
        if "libc.so.6" not in found:
            raise Failed(f"the loader does not say what {program} needs:\n{listed}")
        return found

    def owners(self):
        """Names of the Debian packages that brought what was taken."""
        owners = set()
        for path in sorted(self.used):
            found = [
                listing.stem
                for listing in (self.root / "listings").glob("*.list")
                if f"/{path.relative_to(self.root)}" in listing.read_text().splitlines()
            ]
            if not found:
                raise Failed(f"no package has {path}")
            owners.update(found)
        return owners


def add_client(package, debian):
    launcher = (CHECKOUT / "packaging/launcher.sh").read_bytes()
    libraries = {}
    for name in PROGRAMS:
        program = debian.programs / name
        if re.search(r"\((RPATH|RUNPATH)\)", run("readelf", "-d", program)):
            raise Failed(f"{program} was bound to a folder; unpack it with APTROOT_AS_IS=yes")
        package.add(f"pgbin/{name}", launcher, 0o755)
        package.add(f"pgbin/libexec/{name}", debian.take(program), 0o755)
        libraries.update(debian.libraries(program))
    package.add(f"pgbin/lib/{LOADER}", debian.take(debian.loader), 0o755)
    for name, path in libraries.items():
        package.add(f"pgbin/lib/{name}", debian.take(path))
    authorities = sorted((debian.root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    if len(authorities) < 50:
        raise Failed(f"{debian.root} holds {len(authorities)} certificates of authorities")
    bundle = b"".join(debian.take(path).strip() + b"\n" for path in authorities)
    # Those of Azure's servers that Mozilla has retired, for pg_dump.
    azure = (CHECKOUT / "crates/pg-copy/src/tls/azure-roots.pem").read_bytes()
    for one in re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", azure, re.DOTALL):
        if one not in bundle:
            bundle += one
    package.add("pgbin/ca-certificates.crt", bundle)


def add_debian_licences(package, debian):
    owners = debian.owners()
    listed = (debian.root / "packages.txt").read_text().splitlines()
    used = [line for line in listed if line.split()[0] in owners]
    package.add("licenses/packages.txt", "".join(line + "\n" for line in used).encode())
    common = set()
    for owner in sorted(owners):
        text = (debian.root / f"usr/share/doc/{owner}/copyright").read_bytes()
        package.add(f"licenses/debian/{owner}.txt", text)
        common.update(re.findall(rb"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9]+(?:\.[0-9]+)?)?)", text))
    for name in sorted(common):
        path = debian.root / "usr/share/common-licenses" / name.decode()
        if path.is_file():
            package.add(f"licenses/debian/common-licenses/{name.decode()}", path.read_bytes())
    return used


def crates_of_handler():
    """The crates that are linked into the handler, as cargo describes them."""
    metadata = json.loads(
        run(
            *["cargo", "metadata", "--locked", "--format-version", "1"],
            *["--filter-platform", "x86_64-unknown-linux-gnu"],
        )
    )
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    crates = {crate["id"]: crate for crate in metadata["packages"]}
    todo = [crate["id"] for crate in crates.values() if crate["name"] == "flexkeep-handlers"]
    seen = set()
    while todo:
        crate = todo.pop()
        if crate in seen:
            continue
        seen.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    # Those without a source are flexkeep's own.
    found = [crates[crate] for crate in seen if crates[crate]["source"]]
    return sorted(found, key=lambda crate: (crate["name"], crate["version"]))


def add_crate_licences(package):
    lines, texts = [], {}
    for crate in crates_of_handler():
        name = f"{crate['name']} {crate['version']}"
        lines.append(f"{name}: {crate['license'] or 'see below'}")
        for path in sorted(Path(crate["manifest_path"]).parent.iterdir()):
            if path.is_file() and LICENCE_FILE.match(path.name):
                text = path.read_text(errors="replace").replace("\r\n", "\n").strip()
                texts.setdefault(text, []).append(name)
    if not lines:
        raise Failed("cargo names no crate of the handler")
    parts = ["The Rust crates in flexkeep-handler, and below the licence texts that they come with.\n"]
    parts.append("\n".join(lines) + "\n")
    for text, names in sorted(texts.items(), key=lambda item: (item[1], item[0])):
        parts.append("\n" + "=" * 100 + "\n" + ", ".join(names) + "\n\n" + text + "\n")
    package.add("licenses/rust-crates.txt", "".join(parts).encode())


def arguments():
    parser = argparse.ArgumentParser(description="puts the zip for Azure Functions together")
    parser.add_argument("--handler", type=Path, required=True, help="flexkeep-handler, built")
    parser.add_argument("--client", type=Path, required=True, help="unpacked Debian root")
    parser.add_argument("--policy", type=Path, default=CHECKOUT / "packaging/policy.toml")
    parser.add_argument("--out", type=Path, required=True, help="the zip")
    parser.add_argument("--folder", type=Path, help="the same unpacked, for an image; replaced")
    parser.add_argument(
        "--any-glibc", action="store_true", help="take a handler that runs only on systems like this one"
    )
    return parser.parse_args()


def main():
    args = arguments()
    if not args.any_glibc:
        check_handler(args.handler)
    package = Package()
    add_app(package, args.handler, args.policy)
    debian = DebianRoot(args.client.resolve())
    add_client(package, debian)
    package.add("licenses/README.txt", (CHECKOUT / "packaging/licenses.txt").read_bytes())
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"]:
        package.add(f"licenses/flexkeep/{licence}", (CHECKOUT / licence).read_bytes())
    used = add_debian_licences(package, debian)
    add_crate_licences(package)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    package.write(args.out)
    if args.folder:
        package.unpack(args.folder)
    package.report(args.out)
    client = next((line.split()[1] for line in used if line.startswith("postgresql-client")), "?")
    print(f"{args.out}: {len(package.files)} files, PostgreSQL client {client}")


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"package: {error}")
