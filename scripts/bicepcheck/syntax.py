"""Parsed files: their declarations, and helpers for nodes of the syntax tree."""

import dataclasses
import os
import pathlib
import re

import tree_sitter
import tree_sitter_bicep

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))

ASSIGNMENT = re.compile(rb"^param(?=\s+\w+\s*=)", re.M)

DECLARATIONS = {
    "parameter_declaration": "param",
    "variable_declaration": "var",
    "resource_declaration": "resource",
    "module_declaration": "module",
    "output_declaration": "output",
    "type_declaration": "type",
    "user_defined_function": "func",
}


def text(node):
    return node.text.decode()


def literal(node):
    """The text of a string without interpolations, or None."""
    if node is None or node.type != "string" or any(c.type == "interpolation" for c in node.children):
        return None
    return "".join(text(c) for c in node.children if c.type == "string_content")


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


def properties(node):
    """(key, key node, value node) of an object's properties, without nested resources."""
    for child in node.named_children:
        if child.type == "object_property" and child.named_child_count >= 2:
            key = child.named_children[0]
            if key.type != "resource_declaration":
                yield text(key).strip("'"), key, child.named_children[-1]


def body(node):
    """The object that a resource or module has, behind `if` and `for`; None if there is none."""
    for child in node.named_children:
        if child.type == "object":
            return child
        if child.type in ("if_statement", "for_statement", "parenthesized_expression"):
            found = body(child)
            if found is not None:
                return found
    return None


@dataclasses.dataclass
class Declaration:
    kind: str
    name: str
    node: tree_sitter.Node
    name_node: tree_sitter.Node
    decorators: dict
    parent: "Declaration | None" = None

    @property
    def value(self):
        """What is behind the equals sign; None if there is none."""
        seen = False
        for child in self.node.children:
            if seen and child.is_named:
                return child
            seen = seen or child.type == "="
        return None

    @property
    def type_text(self):
        node = next((c for c in self.node.children if c.type == "type"), None)
        return text(node) if node is not None else ""

    @property
    def path_or_type(self):
        """The string behind the name: a resource's type or a module's path."""
        return literal(next((c for c in self.node.children if c.type == "string"), None))

    @property
    def existing(self):
        return any(c.type == "existing" for c in self.node.children)

    @property
    def loop(self):
        return self.value is not None and self.value.type == "for_statement"


class File:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.is_parameters = self.path.suffix == ".bicepparam"
        source = self.path.read_bytes()
        # The grammar knows no parameter files, where `param x = 1` has no type. Variables look the
        # same; both words take up as much room, so that places stay right.
        self._assigned = {m.start() for m in ASSIGNMENT.finditer(source)} if self.is_parameters else set()
        if self.is_parameters:
            source = ASSIGNMENT.sub(b"var  ", source)
        self.root = PARSER.parse(source).root_node
        self.findings, self.uses = [], None
        self.declarations, self.using, self.scope = [], None, "resourceGroup"
        self._read(self.root, None)
        self._syntax(self.root)

    def finding(self, node, message):
        line, column = node.start_point
        self.findings.append((str(self.path), line + 1, column + 1, message))

    def by_kind(self, *kinds):
        return [d for d in self.declarations if d.kind in kinds]

    def named(self, name):
        return next((d for d in self.declarations if d.name == name and d.kind != "output"), None)

    def _read(self, node, parent):
        decorators = {}
        for child in node.named_children:
            if child.type == "decorators":
                decorators = dict(self._decorators(child))
                continue
            if child.type in DECLARATIONS:
                name = next((c for c in child.named_children if c.type == "identifier"), None)
                if name is not None:
                    kind = "param" if child.start_byte in self._assigned else DECLARATIONS[child.type]
                    found = Declaration(kind, text(name), child, name, decorators, parent)
                    self.declarations.append(found)
                    if kind == "resource":
                        self._nested(body(child), found)
            elif child.type == "target_scope_assignment":
                self.scope = literal(child.named_children[-1]) or "?"
            elif child.type == "using_statement":
                self.using = child.named_children[-1]
            decorators = {}

    def _nested(self, node, parent):
        for child in node.named_children if node is not None else []:
            if child.type == "object_property":
                self._read(child, parent)

    def _decorators(self, node):
        for child in node.named_children:
            call = child.named_children[0] if child.named_children else None
            if call is not None and call.type == "call_expression":
                name = text(call.named_children[0]).removeprefix("sys.")
                yield name, call.named_children[-1].named_children

    def _syntax(self, node):
        if node.is_error or node.is_missing:
            self.finding(node, f"syntax error near {text(node)[:40]!r}")
        for child in node.children:
            self._syntax(child)


class Loader:
    """Each file once."""

    def __init__(self):
        self._files = {}

    def load(self, path):
        key = os.path.realpath(path)
        if key not in self._files:
            self._files[key] = File(path)
        return self._files[key]

    def beside(self, file, relative):
        """The file that another one names; None if it is not there."""
        path = pathlib.Path(os.path.normpath(file.path.parent / relative))
        return self.load(path) if path.is_file() else None
