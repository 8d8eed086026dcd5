"""The committed JSON schema is current and never stricter than the loader."""

import json
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexa_worker.config.check import Check
from hexa_worker.config.model import File
from hexa_worker.config.reference import TITLES, reference_text
from hexa_worker.config.references import References
from hexa_worker.config.schema import make_schema, schema_text

ROOT = Path(__file__).parents[2]
SCHEMA = make_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD: dict[str, Any] = {
    "worker": {
        "name": "orders",
        "handlers": ["h"],
        "processes": 2,
        "backend": "trio",
        "uvloop": True,
        "log": {"level": "debug"},
        "http": {"port": 0},
        "restart": {"max_restarts": 3},
    },
    "broker": {"driver": "embedded", "path": "x", "lease_s": 3},
    "subscriptions": {
        "a": {"channel": "x", "retry": {"maximum_retries": 3}, "timeout_s": 0.5, "order_by": "key"},
        "b": {"channels": ["x", "y"], "mailbox": 3, "codec": "raw", "middlewares": ["m:f"]},
    },
}
VALUES = st.sampled_from(
    [0, 1, -1, 3.5, 10**9, True, "", "a", "a b", "${HOME:-x}", "key", "trio", [], ["a"], [""], [1], {}, {"file": "f"}]
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        found.extend(paths(one, (*prefix, key)))
    return found


def properties() -> list[tuple[Any, ...]]:
    """Every key of every table that `GOOD` has, said or not."""
    found: list[tuple[Any, ...]] = []
    for name, table in (
        ("WorkerConfig", ("worker",)),
        ("Embedded", ("broker",)),
        ("Subscription", ("subscriptions", "a")),
    ):
        found.extend((*table, key) for key in SCHEMA["$defs"][name]["properties"])
    return [*found, ("worker", "nonsense"), ("subscriptions", "a", "retry", "jitter")]


def mutated(path: tuple[Any, ...], value: Any) -> Any:
    data = deepcopy(GOOD)
    at: Any = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


def loads(data: Any, folder: Path) -> bool:
    check = Check("w", References(folder, {}))
    check.table(data, File)
    return not check.mistakes


def test_the_committed_reference_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference_text()


def test_the_committed_schema_is_current() -> None:
    assert (ROOT / "docs" / "worker.schema.json").read_text() == schema_text()


def test_the_module_writes_the_schema(tmp_path: Path) -> None:
    target = tmp_path / "s.json"
    subprocess.run([sys.executable, "-m", "hexa_worker.config.schema", str(target)], check=True)
    assert target.read_text() == schema_text()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_key_is_described() -> None:
    worker = SCHEMA["$defs"]["WorkerConfig"]["properties"]
    assert worker["processes"]["description"] == "how many worker processes run."
    undescribed = [
        key for key, one in SCHEMA["$defs"]["Subscription"]["properties"].items() if "description" not in one
    ]
    assert undescribed == []


def keys_of_the_model() -> dict[str, set[str]]:
    """The keys of each table, by the fields of its class."""
    tables: dict[str, set[str]] = {}
    todo: list[Any] = [msgspec.inspect.type_info(File)]
    while todo:
        node = todo.pop()
        if isinstance(node, msgspec.inspect.StructType) and node.cls.__name__ not in tables:
            tag = {node.tag_field} if node.tag_field else set()
            tables[node.cls.__name__] = tag | {field.encode_name for field in node.fields}
            todo.extend(field.type for field in node.fields)
        todo.extend(getattr(node, "types", ()))
        todo.extend(getattr(node, name) for name in ("type", "item_type", "value_type") if hasattr(node, name))
    return tables


def keys_of_the_page() -> dict[str, set[str]]:
    """The keys of each table, by the headings and rows of the committed page."""
    tables: dict[str, set[str]] = {}
    keys: set[str] = set()
    for line in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            keys = tables.setdefault(line.lstrip("# ").strip("`"), set())
        elif row := re.match(r"\| `(\w+)` \|", line):
            keys.add(row[1])
    return tables


def test_the_page_and_the_schema_have_every_key_of_the_model_and_no_other() -> None:
    model = keys_of_the_model()
    schema = json.loads((ROOT / "docs" / "worker.schema.json").read_text(encoding="utf-8"))
    assert {
        name: {key for key, one in table["properties"].items() if not one.get("deprecated")}
        for name, table in schema["$defs"].items()
        if name not in {"Reference", "FileReference"}
    } == model
    del model["File"]  # its keys are the page's headings
    page = keys_of_the_page()
    titles = {name: TITLES.get(name, name) for name in model}
    assert {name: page.get(title, set()) for name, title in titles.items()} == {
        name: keys - {"driver"} for name, keys in model.items()
    }
    assert {title for title, keys in page.items() if keys} <= set(titles.values())


def test_every_key_of_the_page_says_what_it_means_and_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE
    )
    assert [key for key, *cells in rows if not all(cells)] == []


def test_editors_accept_an_old_name_and_mark_it_and_the_page_leaves_it_out() -> None:
    VALIDATOR.validate(mutated(("subscriptions", "a", "retry"), {"maximum_attempts": 1, "retry_topics_count": 2}))
    assert not VALIDATOR.is_valid(mutated(("subscriptions", "a", "retry"), {"maximum_attempts": "many"}))
    keys = SCHEMA["$defs"]["Retries"]["properties"]
    assert [key for key, one in keys.items() if one.get("deprecated")] == ["maximum_attempts", "retry_topics_count"]
    assert "retry_topics_count" not in reference_text()


def test_a_good_file_is_good_for_both(tmp_path: Path) -> None:
    assert loads(GOOD, tmp_path)
    VALIDATOR.validate(GOOD)


@settings(max_examples=600)
@given(st.sampled_from(paths(GOOD) + properties()), VALUES)
def test_what_the_loader_accepts_the_schema_accepts(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "f").write_text("a")
    data = mutated(path, value)
    if loads(data, folder):
        VALIDATOR.validate(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("worker", "processes"), 0),
        (("worker", "processes"), "3"),
        (("worker", "nonsense"), 1),
        (("worker", "name"), "a b"),
        (("broker", "driver"), "kafak"),
        (("broker", "lease_s"), 0),
        (("subscriptions", "a", "order_by"), "keys"),
        (("subscriptions", "a", "channels"), []),
        (("subscriptions", "a", "retry", "backof"), 1),
        (("subscriptions", "a"), 1),
    ],
)
def test_the_schema_refuses_what_an_editor_should_mark(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    data = mutated(path, value)
    assert not VALIDATOR.is_valid(data)
    assert not loads(data, tmp_path)


def test_the_example_worker_toml_is_good(tmp_path: Path) -> None:
    import tomllib

    data = tomllib.loads((ROOT / "worker.toml").read_text())
    VALIDATOR.validate(data)
    assert loads(data, tmp_path)
