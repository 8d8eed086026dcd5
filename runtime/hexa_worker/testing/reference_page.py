"""docs/reference.md: every public name, made from its source and docstring, so that it stays true.

``python -m hexa_worker.testing.reference_page [FILE]``. Nothing is imported: annotations stand as they are written.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[1]
_HEAD = """# API reference

Every public name, from its docstring. `from hexa_worker import …` for all but the last section. How they are
used: [handlers](handlers.md), [emitting](emitting.md), [applications](applications.md), [testing](testing.md),
[outbox](outbox.md).

This page is made by `make docs`.
"""
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Handlers": (
        *("subscribe", "lifespan", "Resources", "Retries", "Context", "BatchContext", "AnyContext"),
        *("Middleware", "Next", "scope", "Scope"),
    ),
    "What a handler returns or raises": (
        *("Result", "BatchResult", "Verdict", "Ack", "Drop", "Duplicate", "Retry", "Snooze", "DeadLetter"),
    ),
    "By the clock": ("every", "cron", "Tick"),
    "Outcomes": ("on_outcome", "Decision"),
    "Emitting": ("Event", "Emitter", "SyncEmitter", "User"),
    "Running": ("run", "serve_worker", "ServedWorker"),
    "Brokers": (
        *("Kafka", "KafkaTls", "KafkaSasl", "Nats", "NatsTls", "NatsStream", "Pulsar", "PulsarTls"),
        *("Embedded", "Memory", "Secret"),
    ),
    "Logging": ("log_fields", "DeliveryFilter"),
    "Records": ("Delivery", "Headers", "Lineage"),
    "Errors": (
        *("HexaWorkerError", "ConfigError", "DecodeError", "Unanswered", "WorkerFailed", "DriverError"),
        *("DriverUnavailable", "DriverRejected", "BrokerUnavailable", "BrokerRejected"),
    ),
}
"""The order of the page; a public name that is in none of them comes last."""
_OPTIONS = "hexa_worker.config"
"""Its classes are tables of worker.toml, whose keys have a page of their own."""

_WIDTH = 100

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """Where a name is defined, and what it says."""

    module: str
    node: Definition
    note: str


def reference_text() -> str:
    """The page as the committed file holds it."""
    names = set(_exported("hexa_worker"))
    arranged = {name for section in _SECTIONS.values() for name in section}
    sections = {title: [name for name in section if name in names] for title, section in _SECTIONS.items()}
    sections["More"] = sorted(names - arranged)
    lines = [_HEAD]
    for title, section in sections.items():
        if section:
            lines.append(f"\n## {title}\n")
            lines += [_entry(name, find("hexa_worker", name)) for name in section]
    for package in ("hexa_worker.testing", "hexa_worker.outbox"):
        lines.append(f"\n## {package}\n")
        lines += [_entry(name, find(package, name)) for name in _exported(package)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _exported(package: str) -> list[str]:
    found = find(package, "__all__").node
    assert isinstance(found, ast.Assign)  # noqa: S101 - written so
    return [str(name) for name in ast.literal_eval(found.value)]


@cache
def _parsed(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def find(module: str, name: str) -> Place:
    """Where a name of a module is defined, through every import.

    Raises:
        LookupError: nowhere.
    """
    body = _parsed(module).body
    for place, node in enumerate(body):
        if _defines(node, name):
            after = body[place + 1] if place + 1 < len(body) else None
            note = ast.literal_eval(after.value) if isinstance(after, ast.Expr) and _is_text(after.value) else ""
            assert isinstance(node, Definition)  # noqa: S101 - it defines something
            return Place(module, node, note)
    for one in ast.walk(_parsed(module)):
        if isinstance(one, ast.ImportFrom) and one.module and one.module.startswith("hexa_worker"):
            for alias in one.names:
                if name in (alias.asname, alias.name):
                    return find(one.module, alias.name)
    raise LookupError(f"{module} has no {name}")


def _defines(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name and not _is_overload(node)
        case ast.Assign():
            return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        case ast.AnnAssign():
            return isinstance(node.target, ast.Name) and node.target.id == name
        case _:
            return False


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_overload(node: ast.stmt) -> bool:
    return "overload" in _decorators(node)


def _decorators(node: ast.stmt) -> list[str]:
    return [ast.unparse(one) for one in getattr(node, "decorator_list", ())]


def _entry(name: str, place: Place) -> str:
    node = place.node
    if isinstance(node, ast.Assign | ast.AnnAssign):
        value = "" if node.value is None else ast.unparse(node.value)
        return f"\n### {name}\n\n```python\n{name} = {value}\n```\n\n{_words(place.note)}"
    if not isinstance(node, ast.ClassDef):
        return f"\n### {name}\n\n```python\n{_signature(node, name)}\n```\n\n{_words(ast.get_docstring(node) or '')}"
    text = ast.get_docstring(node) or ""
    if place.module.startswith(_OPTIONS):
        text = text.partition("\n\nAttributes:")[0] + (
            "" if name == "Secret" else "\n\nIts keys are those of worker.toml, see [configuration](configuration.md)."
        )
        return f"\n### {name}\n\n{_words(text)}"
    members = _members(place)
    made = next((one for one in members if one.name == "__init__"), None)
    title = f"class {name}"
    call = _call(title, _fields(place)) if made is None else _signature(made, title, bound=True)
    head = "" if call == f"{title}()" else f"```python\n{call}\n```\n\n"
    listed = "".join(_member(one) for one in members if not one.name.startswith("_"))
    return f"\n### {name}\n\n{head}{_words(text)}\n{listed}"


def _members(place: Place) -> list[Function]:
    """The methods and properties of a class, those of its private bases included; of one name the class's own."""
    assert isinstance(place.node, ast.ClassDef)  # noqa: S101 - so it was called
    own = [one for one in place.node.body if isinstance(one, Function) and not _is_overload(one)]
    members = {one.name: one for one in own}
    for base in place.node.bases:
        name = ast.unparse(base).partition("[")[0]
        if name.startswith("_"):
            members |= {one.name: one for one in _members(find(place.module, name)) if one.name not in members}
    return list(members.values())


def _member(node: Function) -> str:
    text = _words(ast.get_docstring(node) or "", indent="  ")
    if any("property" in one for one in _decorators(node)):
        returns = "" if node.returns is None else f": {ast.unparse(node.returns)}"
        return f"\n- `{node.name}{returns}`\n\n{text}\n"
    call = _signature(node, node.name, bound="staticmethod" not in _decorators(node))
    call = re.sub(r",\n\)", ")", call).replace("(\n    ", "(").replace("\n    ", " ")
    return f"\n- `{call}`\n\n{text}\n"


def _signature(node: Function, name: str, *, bound: bool = False) -> str:
    """A call as it is written; of a method without ``self``."""
    parameters = list(_parameters(node.args))
    if bound and parameters:
        del parameters[0]
        if parameters[:1] == ["/"]:
            del parameters[0]
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = "" if node.returns is None or name.startswith("class ") else f" -> {ast.unparse(node.returns)}"
    return word + _call(name, parameters) + returns


def _call(name: str, parameters: Sequence[str]) -> str:
    """A call, one parameter a line where they do not fit into one."""
    line = f"{name}({', '.join(parameters)})"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in parameters) + ")"


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Each parameter as it is written, with the marks ``/`` and ``*`` between them."""
    places = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(places) - len(arguments.defaults)) + list(arguments.defaults)
    for number, (parameter, default) in enumerate(zip(places, defaults, strict=True), 1):
        yield _parameter(parameter.arg, parameter.annotation, default)
        if number == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg is not None:
        yield "*" + _parameter(arguments.vararg.arg, arguments.vararg.annotation, None)
    elif arguments.kwonlyargs:
        yield "*"
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(parameter.arg, parameter.annotation, default)


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None) -> str:
    typed = name if annotation is None else f"{name}: {ast.unparse(annotation)}"
    return typed if default is None else f"{typed} = {ast.unparse(default)}"


def _fields(place: Place) -> list[str]:
    """The fields of a struct, those of its private bases first."""
    assert isinstance(place.node, ast.ClassDef)  # noqa: S101 - so it was called
    fields: list[str] = []
    for base in place.node.bases:
        if ast.unparse(base).startswith("_"):
            fields += _fields(find(place.module, ast.unparse(base).partition("[")[0]))
    for one in place.node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and "ClassVar" not in ast.unparse(one):
            fields.append(_parameter(one.target.id, one.annotation, one.value))
    return fields


_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\n((?:    .*\n?|\n)+)", re.MULTILINE)
_ITEM = re.compile(r"^    (\S.*?): (.*(?:\n     .*)*)", re.MULTILINE)


def _words(docstring: str, indent: str = "") -> str:
    """A docstring in Google's style as Markdown."""
    text = _SECTION.sub(_listed, inspect.cleandoc(docstring) + "\n").replace("``", "`").rstrip()
    return "\n".join(f"{indent}{line}" if line else "" for line in text.splitlines())


def _listed(section: re.Match[str]) -> str:
    items = [f"- `{name}`: {' '.join(text.split())}" for name, text in _ITEM.findall(section[2])]
    if items and section[1] not in ("Returns", "Yields"):
        return f"{section[1]}:\n\n" + "\n".join(items) + "\n\n"
    return f"{section[1]}: {' '.join(section[2].split())}\n\n"


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference.md")
    target.write_text(reference_text(), encoding="utf-8")
