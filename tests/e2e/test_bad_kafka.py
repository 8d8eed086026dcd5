"""What Kafka refuses, and what only looks like Kafka: one clear line from the real command line."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.e2e.on_brokers import Place, fail_alone, refuse_a_login
from tests.lab.base import Broker
from tests.lab.kafka import Kafka
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, USER

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
CANARY = "canary-9c41e7"


@pytest.fixture(scope="module")
def node(get_broker: Callable[[str], Broker], lab: Any) -> Iterator[Kafka]:
    yield cast("Kafka", get_broker("kafka-secure"))
    lab.drop("kafka-secure")


@pytest.fixture
def place(unique_name: Callable[..., str]) -> Place:
    return Place("", "", unique_name("e"), "group")


def login(node: Kafka, user: str, password: str, *, create: bool = True) -> str:
    return f"""
driver = "kafka"
servers = ["{node.listener("sasl")}"]
create_channels = {str(create).lower()}
[broker.sasl]
mechanism = "PLAIN"
username = "{user}"
password = "{password}"
"""


def test_a_wrong_password_is_one_line_and_exit_code_2(node: Kafka, place: Place, tmp_path: Path) -> None:
    refuse_a_login(place.project(tmp_path, login(node, USER, CANARY)), node.listener("sasl"), CANARY)


def test_missing_rights_on_one_topic_fail_its_subscription_alone(node: Kafka, place: Place, tmp_path: Path) -> None:
    channel = f"{FORBIDDEN}-{place.name}"
    project = place.project(tmp_path, login(node, LIMITED, LIMITED_PASSWORD), child=channel)
    fail_alone(project, place, channel, node.listener("sasl"))
    checked = project("check", "--connect", code=2)
    assert f"channel {channel}: this login may not see it" in checked.stderr
    text = project.refusal("emit", channel, "--payload", "1", code=1)
    assert channel in text
    assert "no rights" in text


def test_topics_that_nobody_makes_are_named_in_one_line(node: Kafka, place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path, login(node, LIMITED, LIMITED_PASSWORD, create=False))
    text = project.refusal("run", code=2)
    assert node.listener("sasl") in text
    assert f"{place.name}.child, {place.name}.work" in text
    assert "create_channels = true" in text
    assert "2 problems" in project("check", "--connect", code=2).stderr


def test_what_is_too_large_for_its_topic_is_refused_in_one_line(node: Kafka, place: Place, tmp_path: Path) -> None:
    small = f"{place.name}.small"

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=node.listener("client"))
        await admin.start()
        await admin.create_topics([NewTopic(small, 1, 1, topic_configs={"max.message.bytes": "5000"})])
        await admin.close()

    asyncio.run(make())
    project = place.project(
        tmp_path, f'driver = "kafka"\ncreate_channels = true\nservers = ["{node.listener("client")}"]'
    )
    text = project.refusal("emit", small, "--payload", json.dumps("x" * 20_000), code=1)
    assert small in text
    assert "larger than the topic allows" in text


def test_a_kafka_port_is_no_port_of_nats_or_pulsar(node: Kafka, place: Place, tmp_path: Path) -> None:
    address = node.listener("client")
    for broker, words in (
        (f'driver = "nats"\nservers = ["nats://{address}"]', "is it a NATS port?"),
        (f'driver = "pulsar"\nurl = "pulsar://{address}"', "hung up without an answer"),
        (f'driver = "kafka"\nservers = ["{node.listener("ssl")}"]', "TLS needs [broker.tls]"),
    ):
        text = place.project(tmp_path, broker).refusal("check", "--connect", code=1)
        assert "127.0.0.1:" in text
        assert words in text
