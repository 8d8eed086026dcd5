"""The tiers of tests, the time they took, and the second try that CI has.

A test is `pure` (it needs no server and no other process), of `processes` (it starts real ones, or keeps files of the
embedded broker), or of `servers`. Each is a mark: ``pytest -m "not servers"``.

Whoever runs the tests sees every failure. With CI=true a test of processes or servers is run once more before it
counts as failed: one race should not hide what else a change broke. Such a race is a defect, so the last lines name
each with its first failure.
"""

import os
from collections.abc import Generator

import pytest

BUDGETS = {"pure": 60, "processes": 240, "servers": 900}
"""Seconds that a tier may take on an idle machine with two cores; what is above is said, not failed.

Parallel test processes share the machine: the time of a tier is the sum of its tests' by the number of processes.
"""
SERVERS = {"kafka", "nats", "pulsar", "redis", "postgres"}
"""Marks of tests that talk to servers, and names that conformance tests carry in their ids."""
PURE = {"actors", "typing", "unit"}
"""Folders of pure tests."""
LAB = "lab"
"""The folder of the lab's own tests."""
BACKENDS = {"asyncio", "uvloop", "trio"}
_SHOWN = 12


def tier_of(item: pytest.Item) -> str:
    """The tier of a test."""
    if item.path.parent.name in PURE:
        return "pure"
    uses_lab = item.path.parent.name == LAB or "lab" in getattr(item, "fixturenames", ())
    return "servers" if uses_lab or SERVERS & _words(item) else "processes"


def _words(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()} | set(item.name.replace("[", "-").rstrip("]").split("-"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and let those of one file run in one process, with the brokers of that process.

    The conformance suite, whose tests mostly wait, is one such group for each driver and event loop; it begins first.
    """
    for item in items:
        tier = tier_of(item)
        item.add_marker(tier)
        if tier != "pure" and os.environ.get("CI") == "true":
            item.add_marker(pytest.mark.flaky(reruns=1))
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: (tier_of(item) != "servers", not _conforming(item)))


def _conforming(item: pytest.Item) -> bool:
    return item.path.parent.name == "conformance"


def _group(item: pytest.Item) -> str:
    file = f"{item.path.parent.name}/{item.path.stem}"
    return "-".join([file, *sorted(BACKENDS & _words(item))]) if _conforming(item) else file


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Below all else: how long the tiers took, and what needed its second try."""
    yield
    _show_times(terminalreporter)
    _show_reruns(terminalreporter)


def _show_times(terminal: pytest.TerminalReporter) -> None:
    spent, processes = dict.fromkeys(BUDGETS, 0.0), set[str]()
    for report in (one for reports in terminal.stats.values() for one in reports if isinstance(one, pytest.TestReport)):
        spent[next(tier for tier in BUDGETS if tier in report.keywords)] += report.duration
        processes.add(getattr(report, "worker_id", "alone"))
    if processes:
        terminal.section("time by tier")
    for tier, total in spent.items():
        if total:
            seconds = total / len(processes)
            over = " - MORE THAN ITS BUDGET" if seconds > BUDGETS[tier] else ""
            terminal.write_line(f"{tier}: {seconds:.0f} s of {BUDGETS[tier]} s{over}")


def _show_reruns(terminal: pytest.TerminalReporter) -> None:
    if not (reruns := terminal.stats.get("rerun", [])):
        return
    terminal.section(f"{len(reruns)} failed at first and ran again: each is a defect to mend", red=True)
    for report in reruns:
        terminal.write_line(f"AGAIN {report.nodeid}", red=True)
        lines = report.longreprtext.splitlines()
        errors = [line for line in lines if line.startswith("E ")] or lines
        for line in errors[:_SHOWN]:
            terminal.write_line(f"    {line}")
