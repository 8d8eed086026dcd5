"""What all tests share: the brokers of the lab, and how patient they are."""

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.brokers.plugin"]

# A busy machine must not fail a test of what code does: its time is measured elsewhere.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# Shells let background jobs ignore it, and what tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

OUTSIDE = {"kafka", "nats", "pulsar", "redis", "postgres"}
"""Marks of tests that talk to servers, and names that conformance tests carry in their ids."""
COMMANDS = {"chaos", "e2e", "peer", "processes"}
"""Folders of tests that start real processes, signal and kill them."""
BACKENDS = {"asyncio", "uvloop", "trio"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test of real servers or processes once more before it counts as failed; the summary says which needed it.

    They are killed and frozen beside a machine's other work; a promise that is broken twice in a row is broken.

    Tests of one file run in one process, one after the other, with the brokers of that process. The conformance
    suite, whose tests mostly wait, is one such group for each driver and event loop; it begins first.
    """
    for item in items:
        if _on_servers(item) or item.path.parent.name in COMMANDS:
            item.add_marker(pytest.mark.flaky(reruns=1))
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: (not (_on_servers(item) and _conforming(item)), not _on_servers(item)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Spell out what no text encoding has: tests of hostile texts log them, and reports cross a pipe as UTF-8."""
    report = yield
    report.sections = [
        tuple(text.encode(errors="backslashreplace").decode() for text in one) for one in report.sections
    ]
    return report


def _words(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()} | set(item.name.replace("[", "-").rstrip("]").split("-"))


def _on_servers(item: pytest.Item) -> bool:
    return bool(OUTSIDE & _words(item))


def _conforming(item: pytest.Item) -> bool:
    return item.path.parent.name == "conformance"


def _group(item: pytest.Item) -> str:
    file = f"{item.path.parent.name}/{item.path.stem}"
    return "-".join([file, *sorted(BACKENDS & _words(item))]) if _conforming(item) else file
