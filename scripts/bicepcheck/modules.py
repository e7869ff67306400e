"""Modules and parameter files against the parameters and outputs of the files that they name."""

from symbols import member_names, uses
from syntax import body, literal, properties, text

MODULE_KEYS = {"name", "scope", "params", "dependsOn"}
NODE_TYPES = {"string": "string", "number": "int", "boolean": "bool", "array": "array", "object": "object"}


def check(file, loaded):
    if file.is_parameters:
        _parameter_file(file, loaded)
    else:
        for declaration in file.by_kind("param"):
            if declaration.value is not None:
                _value(file, declaration, declaration.value)
        for declaration in file.by_kind("module"):
            _module(file, declaration, loaded)


def _parameter_file(file, loaded):
    target = loaded.beside(file, literal(file.using)) if file.using is not None else None
    if target is None:
        file.finding(file.using or file.root, "the template that it uses is not there")
        return
    given = {d.name: (d.name_node, d.value) for d in file.by_kind("param")}
    _parameters(file, file.using, target, given)


def _module(file, declaration, loaded):
    target = loaded.beside(file, declaration.path_or_type or "")
    if target is None:
        file.finding(declaration.name_node, f"there is no module {declaration.path_or_type}")
        return
    content = body(declaration.node)
    if content is None:
        return
    found = {key: (node, value) for key, node, value in properties(content)}
    for key in found.keys() - MODULE_KEYS:
        file.finding(found[key][0], f"module {declaration.name}: no such property: {key}")
    if "name" not in found:
        file.finding(declaration.name_node, f"module {declaration.name} has no name")
    if target.scope != file.scope and "scope" not in found:
        file.finding(declaration.name_node, f"module {declaration.name} needs a scope: it is for a {target.scope}")
    given = {}
    if "params" in found and found["params"][1].type == "object":
        given = {key: (node, value) for key, node, value in properties(found["params"][1])}
    _parameters(file, declaration.name_node, target, given)
    outputs = {d.name for d in target.by_kind("output")}
    for node, name in uses(file):
        chain = member_names(node) if name == declaration.name else []
        if len(chain) > 1 and chain[0] == "outputs" and chain[1] not in outputs:
            file.finding(node, f"module {name} has no output {chain[1]}")


def _parameters(file, at, target, given):
    wanted = {d.name: d for d in target.by_kind("param")}
    for name, declaration in wanted.items():
        if name not in given and declaration.value is None and not declaration.type_text.endswith("?"):
            file.finding(at, f"parameter {name} of {target.path.name} is missing")
    for name, (node, value) in given.items():
        if name not in wanted:
            file.finding(node, f"{target.path.name} has no parameter {name}")
        elif value is not None:
            _value(file, wanted[name], value)
            if "secure" in wanted[name].decorators and literal(value):
                file.finding(value, f"the secret parameter {name} has its value here")


def _value(file, parameter, value):
    """Whether a literal fits a parameter; what is not literal is not known."""
    kind, name = NODE_TYPES.get(value.type), parameter.name
    expected = parameter.type_text.rstrip("?")
    if value.type == "call_expression" and text(value.named_children[0]) in ("int", "bool", "readEnvironmentVariable"):
        function = text(value.named_children[0])
        kind = {"readEnvironmentVariable": "string"}.get(function, function)
    if kind and expected in NODE_TYPES.values() and kind != expected:
        file.finding(value, f"{name} takes {expected}, got {kind}")
        return
    allowed = parameter.decorators.get("allowed")
    if allowed and kind and value.type in ("string", "number"):
        choices = [text(c) for c in allowed[0].named_children]
        if text(value) not in choices and (value.type != "string" or literal(value) is not None):
            file.finding(value, f"{name}: {text(value)} is not one of {', '.join(choices)}")
    size = int(text(value)) if value.type == "number" else None
    limits = ("minValue", "maxValue")
    if literal(value) is not None:
        size, limits = len(literal(value)), ("minLength", "maxLength")
    for limit, wrong in zip(limits, (lambda a, b: a < b, lambda a, b: a > b)):
        bound = parameter.decorators.get(limit)
        if bound and size is not None and wrong(size, int(text(bound[0]))):
            file.finding(value, f"{name}: {text(value)} breaks @{limit}({text(bound[0])})")
