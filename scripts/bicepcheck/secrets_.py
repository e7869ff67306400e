"""Secrets: none in a value, none in an output."""

import re

from symbols import identifiers
from syntax import properties, text, walk

LOOKS_LIKE_A_KEY = [
    (re.compile(r"(AccountKey|SharedAccessKey|SharedAccessSignature|InstrumentationKey)=\S", re.I), "a connection string with a key"),
    (re.compile(r"[?&]sig=", re.I), "a shared access signature"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"\b(password|passwd|pwd|secret)\s*=\s*[^\s'$]", re.I), "a password"),
    (re.compile(r"://[^/\s:@']+:[^/\s:@'$]+@"), "a URL with a password"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{20,}\."), "a token"),
]
# As keys of storage accounts, Service Bus and function apps are written.
BASE64_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40,}={0,2}(?![A-Za-z0-9+/=])")
SECRET_NAME = re.compile(r"(password|passwd|secret|apikey|accesskey|accountkey|primarykey|connectionstring)$", re.I)
REFERENCE = re.compile(r"^'@Microsoft\.KeyVault\(.+\)'$")
SECRET_MEMBER = re.compile(r"\.(primaryKey|secondaryKey|keys|primaryConnectionString|InstrumentationKey|listKeys)\b")


def check(file, _loaded):
    for node in walk(file.root):
        if node.type == "string":
            _string(file, node)
        elif node.type == "call_expression":
            name = text(node.named_children[0]).split(".")[-1]
            # `list*` gives keys, whatever it is called on.
            if re.match(r"list[A-Z]\w*$", name) or name in ("list", "getSecret"):
                file.finding(node, f"{name}() brings a key into the deployment")
        elif node.type == "object":
            for key, _, value in properties(node):
                if SECRET_NAME.search(key) and _is_given(value):
                    file.finding(value, f"{key} has its value here")
    secure = {d.name for d in file.by_kind("param") if "secure" in d.decorators}
    for declaration in file.by_kind("output"):
        if declaration.value is None:
            continue
        if any(name in secure for _, name in _reached(file, declaration.value)):
            file.finding(declaration.name_node, f"output {declaration.name} shows a secret parameter")
        if "secure" not in declaration.decorators and SECRET_MEMBER.search(text(declaration.value)):
            file.finding(declaration.name_node, f"output {declaration.name} shows a key")
    for declaration in file.by_kind("param"):
        value = declaration.value
        if value is not None and value.type == "string" and len(text(value)) > 2:
            if declaration.name in secure or (SECRET_NAME.search(declaration.name) and _is_given(value)):
                file.finding(value, f"parameter {declaration.name} has a secret as its value")


def _reached(file, node):
    """The names that an expression uses, also by way of variables."""
    for use, name in identifiers(node):
        yield use, name
        declaration = file.named(name)
        if declaration is not None and declaration.kind == "var" and declaration.value is not None:
            yield from identifiers(declaration.value)


def _is_given(value):
    """Whether it is text that is written here, and no reference to a secret elsewhere."""
    if value.type != "string" or any(c.type == "interpolation" for c in value.children):
        return False
    return len(text(value)) > 2 and not REFERENCE.match(text(value))


def _string(file, node):
    if REFERENCE.match(text(node)):
        return
    for pattern, what in LOOKS_LIKE_A_KEY:
        if pattern.search(text(node)):
            file.finding(node, f"looks like {what}")
            return
    for match in BASE64_KEY.finditer(text(node)):
        # A path or a name has no such mixture.
        word = match.group()
        kinds = [any(c.isupper() for c in word), any(c.islower() for c in word), any(c.isdigit() for c in word)]
        if all(kinds) and word.count("/") < 4:
            file.finding(node, "looks like a key in base64")
            return
