"""Names: declared, used, in order."""

from syntax import body, literal, properties, text, walk

FUNCTIONS = set(
    """any array base64 base64ToJson base64ToString bool buildUri cidrHost cidrSubnet coalesce concat contains
    createArray createObject dataUri dataUriToString dateTimeAdd dateTimeFromEpoch dateTimeToEpoch deployer
    deployment empty endsWith environment extensionResourceId fail filter first flatten format getSecret
    groupBy guid indexOf int intersection items join json last lastIndexOf length list listKeys
    listAccountSas listServiceSas loadDirectoryFileInfo loadFileAsBase64 loadJsonContent loadTextContent
    loadYamlContent managementGroup managementGroupResourceId map mapValues max min newGuid nameof
    objectKeys padLeft parseCidr parseUri pickZones providers range readEnvironmentVariable reduce reference
    replace resourceGroup resourceId shallowMerge skip sort split startsWith string subscription
    subscriptionResourceId substring sum take tenant tenantResourceId toLogicalZone toLogicalZones
    toObject toLower toPhysicalZone toPhysicalZones toUpper trim union uniqueString uri uriComponent
    uriComponentToString utcNow""".split()
)

# What of a resource is known before it is made.
KNOWN_EARLY = {"id", "name", "type", "apiVersion"}


def check(file, _loaded):
    _doubled(file)
    used = _uses(file)
    for declaration in file.by_kind("param", "var"):
        if declaration.name not in used and not file.is_parameters:
            file.finding(declaration.name_node, f"{declaration.kind} {declaration.name} is not used")
    _described(file)
    _loops(file)
    _cycles(file)
    _early(file)


def _doubled(file):
    for kinds in (("param", "var", "resource", "module", "type", "func"), ("output",)):
        seen = set()
        for declaration in file.by_kind(*kinds):
            if declaration.name in seen:
                file.finding(declaration.name_node, f"{declaration.name} is declared twice")
            seen.add(declaration.name)


def _uses(file):
    declared = {d.name for d in file.declarations if d.kind != "output"}
    functions = FUNCTIONS | {d.name for d in file.by_kind("func")}
    used = set()
    for node, name in uses(file):
        if name in declared:
            used.add(name)
        elif name not in ("az", "sys"):
            file.finding(node, f"{name} is not declared")
    for node in walk(file.root):
        if _is_callee(node) and not _in_decorator(node.parent) and text(node) not in functions:
            file.finding(node, f"there is no function {text(node)}")
    return used


def _is_callee(node):
    parent = node.parent
    if node.type != "identifier" or parent is None:
        return False
    if parent.type == "call_expression":
        return node.id == parent.named_children[0].id
    # In an array the grammar takes f().x for two elements, f and ().x.
    following = node.next_sibling
    return parent.type == "array" and following is not None and following.start_byte == node.end_byte and text(following)[0] == "("


def _in_decorator(node):
    return node.parent is not None and node.parent.type == "decorator"


def uses(file):
    """All of a file's, found once."""
    if file.uses is None:
        file.uses = list(identifiers(file.root))
    return file.uses


def identifiers(node):
    """(node, name) of every name that an expression below `node` uses, bound ones left out."""
    for child in walk(node):
        if child.type == "identifier" and not child.is_missing and _is_use(child):
            name = text(child)
            if not _is_bound(child, name):
                yield child, name


def _is_use(node):
    parent = node.parent
    if parent is None or _is_callee(node) or parent.type in ("type", "primitive_type", "nullable_type", "array_type", "parameter"):
        return False
    if parent.type.endswith("_declaration") or parent.type == "user_defined_function":
        # The name itself, or a bare name behind the equals sign.
        return any(c.type == "=" and c.end_byte <= node.start_byte for c in parent.children)
    if parent.type == "object_property":
        return node.id != parent.named_children[0].id
    if parent.type == "resource_expression":
        return node.id == parent.named_children[0].id
    if parent.type == "lambda_expression":
        return node.id != parent.named_children[0].id
    if parent.type == "for_statement":
        return not _precedes_in(parent, node)
    if parent.type == "parenthesized_expression" and parent.parent.type == "lambda_expression":
        return parent.id != parent.parent.named_children[0].id
    return True


def _precedes_in(loop, node):
    return any(c.type == "in" and c.start_byte >= node.end_byte for c in loop.children)


def _is_bound(node, name):
    at = node.parent
    while at is not None:
        if at.type == "for_statement" and name in _loop_names(at):
            return True
        if at.type == "arguments" and any(name in _lambda_names(n) for n in walk(at)):
            # The grammar ends a lambda too early: what it binds holds for the whole call.
            return True
        if at.type == "user_defined_function":
            for parameter in walk(at):
                if parameter.type == "parameter" and text(parameter.named_children[0]) == name:
                    return True
        at = at.parent
    return False


def _loop_names(loop):
    names = set()
    for child in loop.children:
        if child.type == "in":
            break
        for node in walk(child):
            if node.type in ("identifier", "loop_variable", "loop_enumerator"):
                names.add(text(node))
    return names


def _lambda_names(node):
    if node.type != "lambda_expression":
        return set()
    return {text(n) for n in walk(node.named_children[0]) if n.type == "identifier"}


def _described(file):
    if file.is_parameters:
        return
    for declaration in file.by_kind("param", "output"):
        words = declaration.decorators.get("description")
        if not words or not (literal(words[0]) or "").strip():
            file.finding(declaration.name_node, f"{declaration.kind} {declaration.name} has no @description")


def _loops(file):
    loops = {d.name: d.loop for d in file.by_kind("resource", "module")}
    for node, name in uses(file):
        parent = node.parent
        indexed = parent.type == "subscript_expression" and parent.named_children[0].id == node.id
        if name in loops and loops[name] and parent.type == "member_expression":
            file.finding(node, f"{name} is a loop: use {name}[i]")
        if name in loops and not loops[name] and indexed:
            file.finding(node, f"{name} is no loop")


def _graph(file):
    """Which declaration refers to which, with parents for nested resources."""
    names = {d.name for d in file.declarations if d.kind != "output"}
    graph = {}
    for declaration in file.by_kind("param", "var", "resource", "module"):
        found = {name for _, name in identifiers(declaration.node) if name in names}
        # A nested resource is part of its parent's text, and waits for it.
        found -= {d.name for d in file.declarations if d.parent is declaration}
        if declaration.parent is not None:
            found.add(declaration.parent.name)
        graph[declaration.name] = found
    return graph


def _cycles(file):
    graph, done = _graph(file), set()

    def visit(name, path):
        if name in path:
            loop = path[path.index(name) :] + [name]
            node = file.named(name).name_node
            file.finding(node, f"depends on itself: {' -> '.join(loop)}")
            return
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, path + [name])
        done.add(name)

    for name in graph:
        visit(name, [])


def _early(file):
    """Names, conditions and what loops go over have to be known before anything is made."""
    for declaration in file.by_kind("resource", "module"):
        for what, node in _early_expressions(declaration):
            for late in _late(file, node, set()):
                message = f"{what} of {declaration.name} depends on {late}, which is not known in time"
                file.finding(node, message)


def _early_expressions(declaration):
    content = body(declaration.node)
    for key, _, value in properties(content) if content is not None else ():
        if key == "name":
            yield "the name", value
    at = declaration.value
    while at is not None and at.type in ("if_statement", "for_statement"):
        if at.type == "if_statement":
            yield "the condition", at.named_children[0]
        else:
            over = [c for c in at.named_children if not _precedes_in(at, c)]
            yield "the loop", over[0]
        at = next((c for c in at.named_children if c.type == "if_statement"), None)


def _late(file, node, seen):
    for use, name in identifiers(node):
        declaration = file.named(name)
        if declaration is None or name in seen:
            continue
        if declaration.kind == "var" and declaration.value is not None:
            yield from _late(file, declaration.value, seen | {name})
        elif declaration.kind in ("resource", "module"):
            chain = member_names(use)
            if chain and chain[0] not in KNOWN_EARLY:
                yield f"{name}.{'.'.join(chain)}"


def member_names(use):
    """The properties behind a name: a.b!.c[0].d gives b, c, d."""
    names, at = [], use
    while at.parent is not None:
        parent = at.parent
        if parent.type == "member_expression" and parent.named_children[0].id == at.id:
            names.append(text(parent.named_children[-1]))
        elif parent.type == "subscript_expression" and parent.named_children[0].id == at.id:
            if names:
                break
        elif parent.type != "nullable_type":
            break
        at = parent
    return names
