"""What files declare, as data: for tests that compare it with other files.

An expression that is no literal becomes {"expression": its text}; a text with interpolations stays
as it is written.
"""

from syntax import body, literal, properties, text
from types_ import full_type


def of(file):
    return {
        "parameters": {d.name: _default(file, d) for d in file.by_kind("param")},
        "variables": {d.name: _data(file, d.value) for d in file.by_kind("var")},
        "outputs": {d.name: _data(file, d.value) for d in file.by_kind("output")},
        "resources": [
            {"symbol": d.name, "type": full_type(d)[0], "properties": _data(file, body(d.node))}
            for d in file.by_kind("resource")
        ],
        "modules": [
            {"symbol": d.name, "path": d.path_or_type, "properties": _data(file, body(d.node))}
            for d in file.by_kind("module")
        ],
    }


def _default(file, parameter):
    return {} if parameter.value is None else {"default": _data(file, parameter.value)}


def _data(file, node):
    if node is None:
        return None
    if node.type == "string":
        plain = literal(node)
        return text(node)[1:-1] if plain is None else plain
    if node.type == "number":
        return int(text(node))
    if node.type == "boolean":
        return text(node) == "true"
    if node.type == "null":
        return None
    if node.type == "array":
        return [_data(file, child) for child in node.named_children if child.type != "comment"]
    if node.type == "object":
        return {key: _data(file, value) for key, _, value in properties(node)}
    if node.type == "identifier":
        declaration = file.named(text(node))
        if declaration is not None and declaration.kind == "var":
            return _data(file, declaration.value)
    return {"expression": text(node)}
