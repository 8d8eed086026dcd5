"""What all tests share: the brokers of the lab, and how patient they are."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.brokers.plugin"]

# A busy machine must not fail a test of what code does: its time is measured elsewhere.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

OUTSIDE = {"kafka", "nats", "pulsar", "redis", "postgres"}
"""Marks of tests that talk to servers, and names that conformance tests carry in their ids."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test of a real server once more before it counts as failed; the summary says which needed it.

    Brokers are killed and frozen beside a machine's other work; a promise that is broken twice in a row is broken.
    """
    for item in items:
        if OUTSIDE & ({mark.name for mark in item.iter_markers()} | set(item.name.replace("[", "-").split("-"))):
            item.add_marker(pytest.mark.flaky(reruns=1))
