"""Checks Bicep files without Azure and without the Bicep compiler.

usage: python scripts/bicepcheck [--types FOLDER] [--inventory] PATH...

PATH is a .bicep or .bicepparam file, or a folder with such files. What is found is printed, one
finding a line; the exit code is 1 if there is any, 2 for bad usage. It looks for

  syntax      what the grammar (tree-sitter-bicep) does not understand
  symbols     undeclared, unused and doubled names, unknown functions, cycles, loops that are used
              without an index, names and conditions that depend on what is known only later
  modules     files that are not there, parameters that are missing, unknown or of another type,
              outputs that a module does not have, a missing scope
  parameters  .bicepparam files against the template that they use; allowed values and limits
  words       a @description on every parameter and output
  secrets     values that look like keys, calls that list keys, outputs of secrets
  types       resources against Azure's own types: those in the folder types beside this file, or
              where --types (or FLEXKEEP_BICEP_TYPES) names one, the folder `generated` of
              Azure/bicep-types-az or a part of it

--inventory prints what the files declare as JSON instead.
"""

import json
import os
import pathlib
import sys

import inventory
import modules
import secrets_
import symbols
import syntax
import types_


OWN_TYPES = pathlib.Path(__file__).parent / "types"


def expand(paths):
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix in (".bicep", ".bicepparam"))
        elif path.suffix in (".bicep", ".bicepparam") and path.is_file():
            yield path
        else:
            raise SystemExit2(f"{path}: no such .bicep or .bicepparam file, nor a folder")


class SystemExit2(Exception):
    pass


def main(arguments):
    types_folder, as_inventory, paths = os.environ.get("FLEXKEEP_BICEP_TYPES") or OWN_TYPES, False, []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--types":
            types_folder = next(rest, "")
        elif argument == "--inventory":
            as_inventory = True
        elif argument.startswith("-"):
            raise SystemExit2(f"unknown option {argument}")
        else:
            paths.append(argument)
    files = list(expand(paths))
    if not files:
        raise SystemExit2("no file to check")
    if not next(pathlib.Path(types_folder).rglob("types.json"), None):
        raise SystemExit2(f"there are no types in {str(types_folder)!r}")

    loaded = syntax.Loader()
    trees = [loaded.load(path) for path in files]
    if as_inventory:
        print(json.dumps({str(tree.path): inventory.of(tree) for tree in trees}, indent=1))
        return 0
    checks = [symbols.check, modules.check, secrets_.check, types_.Types(types_folder).check]
    for tree in trees:
        for check in checks:
            check(tree, loaded)
    findings = sorted({finding for tree in trees for finding in tree.findings})
    for path, line, column, text in findings:
        print(f"{path}:{line}:{column}: {text}")
    print(f"bicepcheck: {len(files)} files, {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SystemExit2 as error:
        print(f"bicepcheck: {error}\n\n{__doc__}", file=sys.stderr)
        sys.exit(2)
