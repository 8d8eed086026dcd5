"""What ``[dedup]`` and the subscriptions say of it, through the real command line."""

from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]
[broker]
driver = "embedded"
[dedup]
store = "embedded"
ttl_s = {ttl_s}
[subscriptions.by-field]
idempotency_key = "payload:order.id"
[subscriptions.by-header]
idempotency_key = "header:Idempotency-Key"
[subscriptions.always]
dedup = false
"""
HANDLERS = """
from hexa_worker import Context, subscribe


@subscribe("work", action="by-event")
@subscribe("work", action="by-field")
@subscribe("work", action="by-header")
@subscribe("work", action="always")
async def handle(e: dict, ctx: Context) -> None:
    with open("handled.txt", "a") as file:
        file.write(ctx.action + "\\n")
"""


def handled(project: Project) -> Counter[str]:
    """How often each action ran, since this was asked last."""
    project("run", "--until-idle")
    path = project.folder / "handled.txt"
    counted = Counter(path.read_text().split() if path.exists() else ())
    path.unlink(missing_ok=True)
    return counted


def emit(project: Project, event_id: str, order: int, key: str) -> None:
    project(
        *("emit", "work", "--id", event_id, "--payload", f'{{"order": {{"id": {order}}}}}'),
        *("--header", f"Idempotency-Key={key}"),
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project").write(WORKER.format(ttl_s=3600), HANDLERS)


def test_each_subscription_tells_events_apart_by_what_it_names(project: Project) -> None:
    emit(project, "one", 1, "a")
    emit(project, "one", 2, "b")
    emit(project, "two", 1, "c")
    emit(project, "three", 3, "a")
    assert handled(project) == {"by-event": 3, "by-field": 3, "by-header": 3, "always": 4}
    emit(project, "one", 1, "a")
    assert handled(project) == {"always": 1}


def test_what_was_handled_is_remembered_for_as_long_as_the_file_says(project: Project) -> None:
    project.write(WORKER.format(ttl_s=0.001), HANDLERS)
    for _ in range(2):
        emit(project, "one", 1, "a")
        assert handled(project) == {"by-event": 1, "by-field": 1, "by-header": 1, "always": 1}
