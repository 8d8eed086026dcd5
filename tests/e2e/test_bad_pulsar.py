"""What Pulsar refuses, and what only looks like Pulsar: one clear line from the real command line."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.e2e.on_brokers import Place, fail_alone, refuse_a_login
from tests.lab.base import Broker
from tests.lab.pulsar import Pulsar

pytestmark = [pytest.mark.pulsar, pytest.mark.slow]
ROLE = "limited"


@pytest.fixture(scope="module")
def node(get_broker: Callable[[str], Broker], lab: Any) -> Iterator[Pulsar]:
    yield cast("Pulsar", get_broker("pulsar-secure"))
    lab.drop("pulsar-secure")


@pytest.fixture
def place(unique_name: Callable[..., str]) -> Place:
    return Place("", "", unique_name("e"), "subscription")


def login(node: Pulsar, token: str) -> str:
    return f'driver = "pulsar"\nurl = "{node.address}"\nadmin_url = "{node.admin_address}"\ntoken = "{token}"'


def grant(node: Pulsar, channel: str) -> None:
    """Make a topic and let `ROLE` use it."""
    topic = f"{node.admin_address}/admin/v2/persistent/public/default/{channel}"
    headers = {"Authorization": f"Bearer {node.token()}", "Content-Type": "application/json"}
    rights = json.dumps(["produce", "consume"]).encode()
    for url, method, data in ((topic, "PUT", b""), (f"{topic}/permissions/{ROLE}", "POST", rights)):
        urllib.request.urlopen(
            urllib.request.Request(url, data=data, headers=headers, method=method), timeout=30
        ).close()


def test_a_refused_token_is_one_line_and_exit_code_2(node: Pulsar, place: Place, tmp_path: Path) -> None:
    token = node.token(secret=b"another secret of thirty-two byte")
    refuse_a_login(place.project(tmp_path, login(node, token)), node.address.partition("//")[2], token)


def test_missing_rights_on_one_topic_fail_its_subscription_alone(node: Pulsar, place: Place, tmp_path: Path) -> None:
    name = place.name
    for topic in (
        f"{name}.work",
        *(f"{name}-{a}.{end}" for a in ("do", "sibling", "grow") for end in ("retry.1", "dlq")),
    ):
        grant(node, topic)
    project = place.project(tmp_path, login(node, node.token(ROLE)))
    fail_alone(project, place, f"{name}-grow", node.address.partition("//")[2])
    checked = project("check", "--connect", code=2)
    assert f"channel {name}.child: no rights" in checked.stderr
    *warnings, text = project("emit", f"{name}.child", "--payload", "1", code=1).stderr.splitlines()
    assert all("cannot tell whether somebody has subscribed" in one for one in warnings)  # that right is missing, too
    assert text.startswith("error: ")
    assert f"{name}.child" in text
    assert "no rights" in text


def test_without_any_rights_a_worker_ends_with_one_line(node: Pulsar, place: Place, tmp_path: Path) -> None:
    text = place.project(tmp_path, login(node, node.token("nobody"))).refusal("run", code=2)
    assert node.address.partition("//")[2] in text
    assert "no rights" in text


def test_a_pulsar_port_is_no_port_of_kafka_or_nats(node: Pulsar, place: Place, tmp_path: Path) -> None:
    address, http = (one.partition("//")[2] for one in (node.address, node.admin_address))
    for broker, code, words in (
        (f'driver = "kafka"\nservers = ["{address}"]', 1, "Kafka"),
        (f'driver = "nats"\nservers = ["nats://{address}"]', 1, "is it a NATS port?"),
        (f'driver = "pulsar"\nurl = "pulsar://{http}"', 2, "does not speak Pulsar's protocol"),
    ):
        text = place.project(tmp_path, broker).refusal("check", "--connect", code=code)
        assert address in text or http in text
        assert words in text
