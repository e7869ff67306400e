"""Resources against Azure's own types, as Azure/bicep-types-az has them.

A types.json is an array of types that refer to each other by "#/n". Flags of a property: 1 it is
required, 2 it is read-only.
"""

import functools
import json
import pathlib
import re

from symbols import member_names, uses
from syntax import body, literal, properties, text

REQUIRED, READ_ONLY = 1, 2
# Types that are not of a service, and therefore easily not in a selection: property -> flags.
BUILT_IN = {"microsoft.resources/resourcegroups": {"name": 1, "location": 1, "tags": 0, "managedBy": 0, "properties": 0}}
OF_BICEP = ("parent", "scope", "dependsOn")


class Types:
    def __init__(self, folder):
        self.files = {}
        for path in pathlib.Path(folder).rglob("types.json"):
            provider, version = path.parts[-3:-1]
            self.files.setdefault((provider.lower(), version.lower()), []).append(path)

    @functools.cache
    def _load(self, path):
        return json.loads(path.read_text())

    @functools.cache
    def place(self, name, version):
        """(the file that has a resource, its index there), or None."""
        for path in self.files.get((name.split("/")[0].lower(), (version or "").lower()), []):
            for index, found in enumerate(self._load(path)):
                if found["$type"] == "ResourceType" and found["name"].lower() == f"{name}@{version}".lower():
                    return path, index
        return None

    def find(self, name, version):
        """(all types of the file, the resource's own), or None."""
        place = self.place(name, version)
        if place is None:
            return None
        types = self._load(place[0])
        return types, types[_index(types[place[1]]["body"])]

    def check(self, file, _loaded):
        for declaration in file.by_kind("resource"):
            self._resource(file, declaration)

    def _resource(self, file, declaration):
        name, version = full_type(declaration)
        at = declaration.name_node
        if "-preview" in (version or ""):
            file.finding(at, f"{name}@{version} is a preview, which Azure may take away")
        content = body(declaration.node)
        if name.lower() in BUILT_IN:
            self._built_in(file, content, BUILT_IN[name.lower()])
            return
        found = self.find(name, version)
        if found is None:
            have = sorted(v for p, v in self.files if p == name.split("/")[0].lower() and self.find(name, v))
            file.finding(at, f"unknown resource type {name}@{version}; known versions: {', '.join(have) or 'none'}")
            return
        types, of_body = found
        if content is not None and not declaration.existing:
            Walk(file, types).object(of_body, content, name, OF_BICEP)
        self._reads(file, declaration, types, of_body)

    def _built_in(self, file, content, known):
        if content is None:
            return
        given = {key for key, _, _ in properties(content)}
        for key in given - known.keys() - set(OF_BICEP):
            file.finding(content, f"no such property: {key}")
        for key in (key for key, flags in known.items() if flags & REQUIRED and key not in given):
            file.finding(content, f"required {key!r} is missing")

    def _reads(self, file, declaration, types, of_body):
        """Properties that are read from the resource: name.properties.x."""
        for node, name in uses(file):
            if name != declaration.name:
                continue
            of = of_body
            for member in member_names(node):
                # list*() are functions; secrets_ has a word on them.
                if of.get("$type") != "ObjectType" or of.get("additionalProperties") or member.startswith("list"):
                    break
                if member not in of["properties"]:
                    file.finding(node, f"{declaration.name} has no property {member}")
                    break
                of = types[_index(of["properties"][member]["type"])]


def full_type(declaration):
    match = re.match(r"([^@]+)(?:@(.+))?$", declaration.path_or_type or "?")
    name, version = match.group(1), match.group(2)
    if declaration.parent is not None:
        outer, outer_version = full_type(declaration.parent)
        name, version = f"{outer}/{name}", version or outer_version
    return name, version


def _index(reference):
    return int(reference["$ref"].split("/")[-1])


class Walk:
    """Compares values with types. What is not literal is followed through variables and choices."""

    def __init__(self, file, types):
        self.file, self.types = file, types

    def of(self, reference):
        return self.types[_index(reference)]

    def values(self, node, depth=0):
        """The literals that an expression can be."""
        declaration = self.file.named(text(node)) if node.type == "identifier" else None
        if declaration is not None and declaration.kind == "var" and declaration.value is not None and depth < 8:
            yield from self.values(declaration.value, depth + 1)
        elif node.type == "ternary_expression":
            for child in node.named_children[1:]:
                yield from self.values(child, depth)
        elif node.type in ("parenthesized_expression", "for_statement"):
            yield from self.values(node.named_children[-1], depth)
        else:
            yield node

    def value(self, of, node, at):
        for one in self.values(node):
            self.literal(of, one, at)

    def literal(self, of, node, at):
        kind = of["$type"]
        if kind == "UnionType":
            self.union(of, node, at)
        elif kind == "StringLiteralType":
            if literal(node) not in (None, of["value"]):
                self.file.finding(node, f"{at}: expected {of['value']!r}")
        elif kind in ("IntegerType", "BooleanType", "StringType"):
            self.simple(kind, of, node, at)
        elif kind == "ArrayType" and node.type == "array":
            for child in node.named_children:
                self.value(self.of(of["itemType"]), child, f"{at}[]")
        elif kind == "ArrayType" and node.type in ("string", "number", "boolean", "object"):
            self.file.finding(node, f"{at}: expected an array, got {node.type}")
        elif kind in ("ObjectType", "DiscriminatedObjectType"):
            if node.type == "object":
                self.object(of, node, at)
            elif node.type in ("string", "number", "boolean", "array"):
                self.file.finding(node, f"{at}: expected an object, got {node.type}")

    def union(self, of, node, at):
        choices = [self.of(element) for element in of["elements"]]
        texts = [choice["value"] for choice in choices if choice["$type"] == "StringLiteralType"]
        given = literal(node)
        # An open enum has a plain string too; a value that it does not list is more likely wrong.
        if given is not None and texts and given not in texts:
            self.file.finding(node, f"{at}: {given!r} is not one of {', '.join(texts)}")
        objects = [c for c in choices if c["$type"] in ("ObjectType", "DiscriminatedObjectType")]
        if objects and node.type == "object":
            self.object(objects[0], node, at)

    def simple(self, kind, of, node, at):
        fits = {"IntegerType": "number", "BooleanType": "boolean", "StringType": "string"}[kind]
        if node.type in ("string", "number", "boolean", "object", "array") and node.type != fits:
            self.file.finding(node, f"{at}: expected {kind.removesuffix('Type').lower()}, got {node.type}")
        elif kind == "IntegerType" and node.type == "number":
            number, low, high = int(text(node)), of.get("minValue"), of.get("maxValue")
            if (low is not None and number < low) or (high is not None and number > high):
                self.file.finding(node, f"{at}: {number} is outside of {low} to {high}")

    def object(self, of, node, at, besides=()):
        known, given = dict(of.get("properties") or of.get("baseProperties") or {}), set()
        if of["$type"] == "DiscriminatedObjectType":
            which = next((literal(v) for k, _, v in properties(node) if k == of["discriminator"]), None)
            if which is None:
                if not any(k == of["discriminator"] for k, _, _ in properties(node)):
                    self.file.finding(node, f"{at}: required {of['discriminator']!r} is missing")
                return
            if which not in of["elements"]:
                choices = ", ".join(of["elements"])
                self.file.finding(node, f"{at}.{of['discriminator']}: {which!r} is not one of {choices}")
                return
            element = self.of(of["elements"][which])
            known |= element.get("properties", {})
            of = dict(of, additionalProperties=element.get("additionalProperties"))
        for key, key_node, value in properties(node):
            given.add(key)
            if key in known:
                if known[key].get("flags", 0) & READ_ONLY:
                    self.file.finding(key_node, f"{at}.{key} is read-only")
                self.value(self.of(known[key]["type"]), value, f"{at}.{key}")
            elif of.get("additionalProperties"):
                self.value(self.of(of["additionalProperties"]), value, f"{at}.{key}")
            elif key not in besides:
                self.file.finding(key_node, f"{at}.{key}: no such property; there are {', '.join(sorted(known))}")
        for key, property_ in known.items():
            flags = property_.get("flags", 0)
            if flags & REQUIRED and not flags & READ_ONLY and key not in given | {"type", "apiVersion"}:
                self.file.finding(node, f"{at}: required {key!r} is missing")
