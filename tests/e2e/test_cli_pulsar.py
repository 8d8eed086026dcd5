"""The command line on Pulsar."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.on_brokers import *  # noqa: F403 - the claims
from tests.e2e.on_brokers import Place, free_port
from tests.lab.base import Broker

pytestmark = pytest.mark.pulsar


@pytest.fixture
def place(pulsar: Broker, unique_name: Callable[..., str]) -> Place:
    broker = 'driver = "pulsar"\nadmin_url = "{}"\nurl = "{}"'
    away = broker.format(pulsar.admin_address, f"pulsar://127.0.0.1:{free_port()}")
    return Place(broker.format(pulsar.admin_address, pulsar.address), away, unique_name("e"), "subscription", 4_500_000)


def test_lag_says_of_each_subscription_why_it_cannot_be_measured(place: Place, tmp_path: Path, pulsar: Broker) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    project = place.project(tmp_path, place.broker.replace(pulsar.admin_address, nobody))
    asked = project("lag", "--json", code=1)
    for said in (json.loads(asked.stdout), [line for line in asked.stderr.splitlines() if line.startswith("error:")]):
        assert len(said) == 3
        assert all("admin API" in str(one) for one in said)
