"""The recipes of docs/integrations.md do what they say, with the real libraries."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hexa_worker.testing import Harness

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
RECIPES = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


def recipe(name: str) -> ModuleType:
    module = ModuleType(f"{name}_recipe")
    exec(compile(RECIPES[name], f"{PAGE.name}, {name}", "exec"), vars(module))
    return module


def test_dishka_gives_each_call_a_session_that_ends_as_the_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dishka")
    module: Any = recipe("dishka")
    sessions: list[Any] = []

    def recorded(session: Any) -> None:
        session.log = []
        sessions.append(session)

    monkeypatch.setattr(module.Session, "__init__", recorded)
    with Harness([module], settings={"check-order": {"retry": {"maximum_retries": 0}}}) as harness:
        harness.emit("orders", {"id": "one"})
        harness.emit("orders", {"wrong": "two"})
        harness.run_until_idle()
    assert [one.log for one in sessions] == [["one", "commit"], ["rollback"]]
    assert len(harness.acked) == len(harness.dead_letters) == 1


@pytest.fixture
def structlog() -> Iterator[Any]:
    library = pytest.importorskip("structlog")
    yield library
    library.reset_defaults()


def test_structlog_names_the_delivery_on_each_line(structlog: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Harness([recipe("structlog")]) as harness:
        event_id = harness.emit("orders", {"id": 7}, correlation_id="request-1")
        harness.run_until_idle()
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["order"], line["level"]) == ("checked", 7, "info")
    assert (line["action"], line["event_id"], line["attempt"]) == ("check-order", event_id, 0)
    assert line["correlation_id"] == "request-1"


@pytest.fixture
def sentry() -> Iterator[list[dict[str, Any]]]:
    """What Sentry is sent."""
    sdk = pytest.importorskip("sentry_sdk")
    sent: list[dict[str, Any]] = []

    def keep(event: dict[str, Any], _hint: object) -> None:
        sent.append(event)

    sdk.init(dsn="http://public@127.0.0.1:9/1", before_send=keep, default_integrations=False)
    yield sent
    sdk.get_client().close(timeout=0)
    sdk.get_global_scope().set_client(None)


def test_sentry_hears_once_of_an_event_that_is_given_up(sentry: list[dict[str, Any]]) -> None:
    with Harness([recipe("sentry")]) as harness:
        event_id = harness.emit("orders", {"id": 7})
        harness.emit("orders", "no object")
        harness.run_until_idle()
    assert len(harness.retried) == 4
    undecodable, given_up = sentry
    assert given_up["exception"]["values"][0]["type"] == "LookupError"
    assert given_up["exception"]["values"][0]["value"] == "no order 7"
    assert given_up["tags"] == {"action": "check-order", "event_id": event_id, "reason": "failed"}
    assert undecodable["tags"]["reason"] == "undecodable"
    assert undecodable["message"].startswith("DecodeError: ")
