"""The JSON schema of worker.toml, for editors: ``python -m hexa_worker.config.schema [FILE]``.

Made from the model; what keys mean is taken from the Attributes of its docstrings. Whatever the loader
accepts the schema accepts too; rules between keys are the loader's alone.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hexa_worker.config.check import old_names
from hexa_worker.config.model import File
from hexa_worker.config.secret import Secret

_REFERENCES = {
    "Reference": {
        "type": "string",
        "pattern": r"\$\{",
        "description": "${NAME} or ${NAME:-default}: the value of an environment variable.",
    },
    "FileReference": {
        "type": "object",
        "description": "The content of a file, relative to the folder of worker.toml.",
        "properties": {"file": {"type": "string"}},
        "required": ["file"],
        "additionalProperties": False,
    },
}
_REFERENCE = {"$ref": "#/$defs/Reference"}
_FILE = {"$ref": "#/$defs/FileReference"}
_ATTRIBUTE = re.compile(r"^    (?P<name>\w+): (?P<text>.+?)(?=^    \w+: |^\S|\Z)", re.MULTILINE | re.DOTALL)


def make_schema() -> dict[str, Any]:
    """The schema, as JSON data."""
    (top,), components = msgspec.json.schema_components([File], schema_hook=_schema_of, ref_template="#/$defs/{name}")
    classes = {cls.__name__: cls for cls in _structs(File, {})}
    for name, schema in components.items():
        cls = classes.get(name)
        _describe(schema, cls)
        if cls is not None:
            _add_old_names(schema, old_names(cls))
        _widen(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "worker.toml of hexa-worker",
        **top,
        "$defs": dict(sorted((components | _REFERENCES).items())),
    }


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return msgspec.json.format(msgspec.json.encode(make_schema()), indent=2).decode() + "\n"


def _schema_of(cls: type) -> dict[str, Any]:
    if cls is Secret:
        return {"type": "string", "description": "a secret; better a reference than the value itself"}
    raise NotImplementedError(cls)


def _structs(cls: type, found: dict[type, None]) -> dict[type, None]:
    """Every struct that the model is made of."""
    todo: list[Any] = [msgspec.inspect.type_info(cls)]
    while todo:
        one = todo.pop()
        if isinstance(one, msgspec.inspect.StructType):
            if one.cls in found:
                continue
            found[one.cls] = None
            todo.extend(field.type for field in one.fields)
        todo.extend(getattr(one, "types", ()))
        todo.extend(getattr(one, name) for name in ("type", "item_type", "value_type") if hasattr(one, name))
    return found


def _describe(schema: dict[str, Any], cls: type | None) -> None:
    """Put the docstring's words on a table and its keys."""
    documentation = inspect.getdoc(cls) if cls is not None else None
    if cls is None or documentation is None:
        return
    summary, _, attributes = documentation.partition("Attributes:\n")
    schema["description"] = _plain(summary.strip().split("\n\n")[0])
    keys = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))  # type: ignore[attr-defined]  # a struct
    for found in _ATTRIBUTE.finditer(attributes):
        key = keys.get(found["name"], "")
        if key in schema.get("properties", {}):
            schema["properties"][key]["description"] = _plain(found["text"])


def _add_old_names(schema: dict[str, Any], names: Mapping[str, str]) -> None:
    """Let editors accept what a key was called, and mark it."""
    for old, new in names.items():
        values = {key: one for key, one in schema["properties"][new].items() if key != "default"}
        schema["properties"][old] = values | {"description": f"the old name of {new}", "deprecated": True}


def _plain(text: str) -> str:
    return re.sub(r"``?([^`]+)``?", r"\1", " ".join(text.split()))


def _widen(schema: dict[str, Any]) -> None:
    """Let every scalar and every list be a reference too, as the loader does."""
    for key, one in schema.get("properties", {}).items():
        if "const" not in one and not (one.get("enum") and len(one["enum"]) == 1):
            schema["properties"][key] = _widened(one)
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _widened(schema["additionalProperties"])


def _widened(schema: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {key: schema[key] for key in ("description", "deprecated", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in described}
    if rest.get("type") == "array":
        return {**described, "anyOf": [{**rest, "items": _widened(rest.get("items", {}))}, _REFERENCE]}
    if "discriminator" in rest:
        field = rest["discriminator"]["propertyName"]
        open_table = {"type": "object", "properties": {field: _REFERENCE}, "required": [field]}
        return {**described, "anyOf": [*rest["anyOf"], open_table]}
    choices = [one for one in rest.get("anyOf", [rest]) if one != {"type": "null"}]  # TOML has no null
    lists = any(one.get("type") == "array" for one in choices)
    choices = [
        {**one, "items": _widened(one.get("items", {}))} if one.get("type") == "array" else one for one in choices
    ]
    if described.get("default", 0) is None:  # it is left out, or has the default of its one kind
        del described["default"]
        for one in choices:
            described |= {"default": one.pop("default")} if "default" in one else {}
    extra = []
    if lists or any(_is_scalar(one) and one != _ANY_TEXT for one in choices):
        extra.append(_REFERENCE)
    if any(one.get("type") == "string" for one in choices):
        extra.append(_FILE)
    choices.extend(extra)
    return {**described, **choices[0]} if len(choices) == 1 else {**described, "anyOf": choices}


_ANY_TEXT = {"type": "string"}


def _is_scalar(schema: dict[str, Any]) -> bool:
    return schema.get("type") in ("string", "integer", "number", "boolean") or "enum" in schema


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/worker.schema.json")
    target.write_text(schema_text(), encoding="utf-8")
