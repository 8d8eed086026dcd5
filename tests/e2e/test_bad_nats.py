"""What NATS refuses, and what only looks like NATS: one clear line from the real command line."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import nats as client
import pytest
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

from tests.e2e.on_brokers import Place, done, fail_alone, refuse_a_login
from tests.lab.base import Broker
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, USER
from tests.lab.nats import Nats

pytestmark = pytest.mark.nats
CANARY = "canary-9c41e7"


@pytest.fixture
def place(nats: Broker, unique_name: Callable[..., str]) -> Place:
    return Place(
        f'driver = "nats"\ncreate_channels = true\nservers = ["{nats.address}"]', "", unique_name("e"), "durable"
    )


@pytest.fixture
def node(get_broker: Callable[[str], Broker], lab: Any) -> Iterator[Nats]:
    yield cast("Nats", get_broker("nats-users"))
    lab.drop("nats-users")


def login(node: Nats, user: str, password: str) -> str:
    return f"""
driver = "nats"
servers = ["{node.address}"]
create_channels = true
user = "{user}"
password = "{password}"
[broker.tls]
ca_file = "{node.certificates.ca}"
"""


def test_a_wrong_password_is_one_line_and_exit_code_2(node: Nats, place: Place, tmp_path: Path) -> None:
    refuse_a_login(place.project(tmp_path, login(node, USER, CANARY)), node.address, CANARY)


def test_missing_rights_on_one_channel_fail_its_subscription_alone(node: Nats, place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path, login(node, LIMITED, LIMITED_PASSWORD), child=FORBIDDEN)
    fail_alone(project, place, FORBIDDEN, node.address.partition("//")[2])
    assert FORBIDDEN in project("check", "--connect", code=2).stderr
    text = project("emit", FORBIDDEN, "--payload", "1", code=1).stderr
    assert f"error: nats at {node.address}: this login may not publish to " in text


def make_first(address: str, *streams: StreamConfig, durable: ConsumerConfig | None = None) -> None:
    """Make streams, and a durable of the first one, before a worker does."""

    async def make() -> None:
        connection = await client.connect(address)
        jetstream = connection.jetstream()
        for one in streams:
            await jetstream.add_stream(one)
        if durable is not None:
            await jetstream.add_consumer(str(streams[0].name), durable)
        await connection.close()

    asyncio.run(make())


def test_a_durable_of_another_kind_is_shown_beside_what_is_wanted_and_siblings_run(
    nats: Broker, place: Place, tmp_path: Path
) -> None:
    stream = StreamConfig(name=f"{place.name}~child", subjects=[f"{place.name}.child"])
    other = ConsumerConfig(durable_name=f"{place.name}-grow", filter_subject=f"{place.name}.child", max_deliver=3)
    make_first(nats.address, stream, durable=other)
    project = place.project(tmp_path)
    project("emit", f"{place.name}.work", "--payload", '{"id": 1}')
    ran = project("run", "--until-idle", code=1)
    assert [line.split()[0] for line in done(project)] == ["1"]
    wanted = "max_deliver is 3, wanted -1"
    (line, *_) = [line for line in ran.stderr.splitlines() if "subscription failed" in line]
    for words in (nats.address, f"durable '{place.name}-grow' of stream '{place.name}~child'", wanted):
        assert words in line
    assert "Traceback" not in ran.stderr
    assert wanted in project("check", "--connect", code=2).stderr


def test_streams_of_another_kind_end_a_worker_with_one_line(nats: Broker, place: Place, tmp_path: Path) -> None:
    kept = RetentionPolicy.INTEREST
    retries = [
        StreamConfig(name=f"{place.name}-{action}~~retry", subjects=[f"{place.name}-{action}.retry.>"], retention=kept)
        for action in ("do", "sibling", "grow")
    ]
    make_first(nats.address, *retries)
    text = place.project(tmp_path).refusal("run", code=2)
    assert nats.address in text
    assert "retention is 'interest', wanted 'workqueue'" in text


def test_a_nats_port_is_no_port_of_kafka_or_pulsar(nats: Broker, place: Place, tmp_path: Path) -> None:
    address, http = (one.partition("//")[2] for one in (nats.address, nats.admin_address))
    for broker, code, words in (
        (f'driver = "kafka"\nservers = ["{address}"]', 1, "does not speak Kafka in the clear"),
        (f'driver = "pulsar"\nurl = "pulsar://{address}"', 2, "does not speak Pulsar's protocol"),
        (f'driver = "nats"\nservers = ["nats://{http}"]', 1, "is it a NATS port?"),
    ):
        text = place.project(tmp_path, broker).refusal("check", "--connect", code=code)
        assert address in text or http in text
        assert words in text


def test_a_server_that_is_too_old_is_one_line_and_exit_code_2(place: Place, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=be_old, args=(listener,), daemon=True).start()
        address = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        project = place.project(tmp_path, f'driver = "nats"\nservers = ["{address}"]')
        for command in (("check", "--connect"), ("run",)):
            text = project.refusal(*command, code=2)
            assert text == f"nats at {address}: server 2.8.4 is too old, 2.9 or newer is needed"


def be_old(listener: socket.socket) -> None:
    """Greet as a server of an older line does; no such server can be had."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with closing(peer):
            peer.sendall(b'INFO {"server_id":"x","version":"2.8.4","max_payload":1048576,"jetstream":true}\r\n')
            while said := peer.recv(4096):
                if b"PING" in said:
                    peer.sendall(b"PONG\r\n")
