"""Takes from Azure/bicep-types-az what some Bicep files use, into the folder types beside this file.

usage: python scripts/bicepcheck/select_types.py GENERATED FOLDER

GENERATED is its folder `generated`, FOLDER one with Bicep files. What is reachable from the
resources that they declare is kept, without descriptions; the selection is made anew.
"""

import json
import pathlib
import shutil
import sys

import syntax
import types_

OUT = pathlib.Path(__file__).parent / "types"


def references(value):
    """Indices of the types that a type refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield int(inner.split("/")[-1])
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def reduced(types, roots):
    """The types that are reachable from some, renumbered."""
    kept, todo = set(), list(roots)
    while todo:
        index = todo.pop()
        if index not in kept:
            kept.add(index)
            todo.extend(references(types[index]))
    number = {old: new for new, old in enumerate(sorted(kept))}

    def renumbered(value):
        if isinstance(value, dict):
            return {
                key: f"#/{number[int(inner.split('/')[-1])]}" if key == "$ref" else renumbered(inner)
                for key, inner in value.items()
                if key != "description" or not isinstance(inner, str)
            }
        return [renumbered(inner) for inner in value] if isinstance(value, list) else value

    return [renumbered(types[old]) for old in sorted(kept)]


def main(generated, folder):
    loaded, source = syntax.Loader(), types_.Types(generated)
    wanted = {
        types_.full_type(declaration)
        for path in pathlib.Path(folder).rglob("*.bicep")
        for declaration in loaded.load(path).by_kind("resource")
    }
    found = {}
    for name, version in sorted(wanted):
        if name.lower() in types_.BUILT_IN:
            continue
        place = source.place(name, version)
        if place is None:
            sys.exit(f"{generated} has no {name}@{version}")
        path, index = place
        found.setdefault(path, []).append(index)
    for old in OUT.glob("*/"):
        shutil.rmtree(old)
    for path, roots in found.items():
        types = reduced(json.loads(path.read_text()), roots)
        out = OUT.joinpath(*path.parts[-4:])
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in types)
        out.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
