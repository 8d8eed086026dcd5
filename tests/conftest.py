"""What all tests share: the brokers of the lab, and how patient they are."""

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.lab.plugin", "tests.tiers"]

# A busy machine must not fail a test of what code does: its time is measured elsewhere.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# Shells let background jobs ignore it, and what tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Spell out what no text encoding has: tests of hostile texts log them, and reports cross a pipe as UTF-8."""
    report = yield
    report.sections = [
        tuple(text.encode(errors="backslashreplace").decode() for text in one) for one in report.sections
    ]
    return report
