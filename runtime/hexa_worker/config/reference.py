"""docs/configuration.md: every table and key of worker.toml, made from its schema, so that it stays true.

``python -m hexa_worker.config.reference [FILE]``
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hexa_worker.config.schema import make_schema

_HEAD = """# worker.toml

Every table and key. Relative paths are relative to the folder of worker.toml, durations are seconds, sizes are
bytes. Any scalar may be a reference: `"${NAME}"` or `"${NAME:-default}"` for an environment variable,
`{ file = "secret.txt" }` for the content of a file. A list of texts may be one reference whose value separates
them by commas: `servers = "${SERVERS}"`. A mistake is an error that names the file, the key path, the value and what
is allowed. Editors check against [worker.schema.json](worker.schema.json): begin the file with
`#:schema docs/worker.schema.json`.

This page is made from the model by `python -m hexa_worker.config.reference`.
"""
TITLES = {
    "WorkerConfig": "[worker]",
    "LogConfig": "[worker.log]",
    "Http": "[worker.http]",
    "RestartPolicy": "[worker.restart]",
    "ProcessRestartPolicy": "[worker.process_restart]",
    "Memory": '[broker] driver = "memory"',
    "Embedded": '[broker] driver = "embedded"',
    "Kafka": '[broker] driver = "kafka"',
    "Nats": '[broker] driver = "nats"',
    "Pulsar": '[broker] driver = "pulsar"',
    "Subscription": "[subscriptions.ACTION]",
    "Retries": "[subscriptions.ACTION.retry]",
    "ChannelConfig": "[channels.CHANNEL]",
    "LineageConfig": "[lineage]",
    "Dedup": "[dedup]",
    "OutboxConfig": "[outbox]",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_KINDS = {"string": "text", "object": "table"}
_DERIVED = " Default: "
_SKIPPED = {"File", "Reference", "FileReference"}


def reference_text() -> str:
    """The page as the committed file holds it."""
    tables = make_schema()["$defs"]
    order = [name for name in TITLES if name in tables] + [
        name for name in tables if name not in TITLES and name not in _SKIPPED
    ]
    return _HEAD + "".join(_section(name, tables[name]) for name in order)


def _section(name: str, table: dict[str, Any]) -> str:
    if "properties" not in table:
        return ""
    title = TITLES.get(name, name)
    rows = "".join(_rows(table))
    head = f"\n## `{title}`\n\n" if title != name else f"\n### {name}\n\n"
    return f"{head}{table.get('description', '')}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _rows(table: dict[str, Any]) -> Iterator[str]:
    required = set(table.get("required", ()))
    for key, schema in table["properties"].items():
        if key == "driver" or schema.get("deprecated"):
            continue
        meaning, _, derived = schema.get("description", "").partition(_DERIVED)
        default = "**required**" if key in required else _default(schema, derived)
        yield f"| `{key}` | {_type(schema)} | {_cell(default)} | {_cell(meaning)} |\n"


def _default(schema: dict[str, Any], derived: str) -> str:
    """The default of a key; `derived` says what it is derived from where it is no single value."""
    match schema.get("default"):
        case None:
            return derived.removesuffix(".") or "unset"
        case dict():
            return "its defaults"
        case default:
            return f"`{json.dumps(default)}`"


def _type(schema: dict[str, Any]) -> str:
    """What a value may be, references aside, in a few words."""
    if "enum" in schema:
        return " \\| ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"] if not _is_reference(one)]
        return " \\| ".join(dict.fromkeys(kind for kind in kinds if kind))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "table" if name in TITLES else f"table: {name}"
    if schema.get("type") == "array":
        least = "non-empty " if schema.get("minItems") else ""
        return f"{least}list of {_type(schema.get('items', {})) or 'text'}"
    kind = _KINDS.get(schema.get("type", ""), schema.get("type", ""))
    if schema.get("minLength"):
        kind = f"non-empty {kind}"
    bounds = [f"{sign} {schema[bound]}" for bound, sign in _BOUNDS.items() if bound in schema]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _is_reference(schema: dict[str, Any]) -> bool:
    return schema.get("$ref", "") in ("#/$defs/Reference", "#/$defs/FileReference") or schema.get("type") == "null"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/configuration.md")
    target.write_text(reference_text(), encoding="utf-8")
