"""A service in Go on the same topics, alive: neither side can tell that the other one is another language."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from google.protobuf.api_pb2 import Method

from hexa_worker import Event, SyncEmitter, User
from tests.drivers.kafka_tools import make_topic
from tests.e2e.project import Project
from tests.lab.base import Broker
from tests.peer.program import Peer

pytestmark = pytest.mark.kafka
Name = Callable[..., str]
PARTITIONS = 4
WORKER = """
[worker]
name = "shop"
handlers = ["h"]
[broker]
driver = "kafka"
servers = ["{address}"]
wire = "hexa"
create_channels = true
partitioner = "fnv1a"
session_timeout_s = 6
[subscriptions.{action}.retry]
initial_interval_s = {initial}
backoff_coefficient = {coefficient}
maximum_retries = 2
"""
HANDLERS = """
import json
import time
from pathlib import Path

from google.protobuf.api_pb2 import Method
from google.protobuf.json_format import MessageToDict

from hexa_worker import Context, subscribe


@subscribe("{topic}", action="{action}")
async def handle(payload: {payload}, ctx: Context) -> None:
    said = dict(
        attempt=ctx.attempt,
        event_id=ctx.event_id,
        root_id=ctx.root_id,
        correlation_id=ctx.correlation_id,
        locale=ctx.locale,
        user=None if ctx.user is None else ctx.user.name,
        key=ctx.key,
        payload=MessageToDict(payload) if isinstance(payload, Method) else payload,
        timestamp_ms=ctx.delivery.timestamp_ms,
        handled_ms=int(time.time() * 1000),
    )
    print("HANDLED " + json.dumps(said), flush=True)
    if ctx.attempt in {fail} and not Path("mended").exists():
        raise ValueError("not this time")
"""
ADA = {
    "_user_type": "_regular",
    "_user_identifier": "u-42",
    "_user_email": "ada@example.test",
    "_user_phone": "+4912345",
    "_user_name": "Ada Łovelace <&>",
    "_user_username": "ada",
    "_user_is_active": True,
    "_user_roles": ["admin", "ops"],
}


class Shop:
    """A topic, an action, and our worker's project for them."""

    def __init__(self, folder: Path, address: str, name: str) -> None:
        self.topic, self.action = f"{name}.in", name
        self._address = address
        self.project = Project(folder)
        for topic in (*(f"{name}.retry.{number}" for number in (1, 2)), f"{name}.dlq"):
            anyio.run(make_topic, address, topic)
        anyio.run(make_topic, address, self.topic, PARTITIONS)

    def write(
        self, *, payload: str = "dict", fail: tuple[int, ...] = (), initial: float = 1, coefficient: float = 2
    ) -> Path:
        """Write the project; the path of its worker.toml."""
        worker = WORKER.format(address=self._address, action=self.action, initial=initial, coefficient=coefficient)
        self.project.write(
            worker, HANDLERS.format(topic=self.topic, action=self.action, payload=payload, fail=set(fail) or "()")
        )
        return self.project.folder / "worker.toml"

    def handle(self, count: int = 1) -> list[dict[str, Any]]:
        """Let our worker handle so many deliveries, and stop it."""
        with self.project.running("run") as worker:
            heard = [json.loads(worker.hear("HANDLED ").partition("HANDLED ")[2]) for _ in range(count)]
            worker.signal(signal.SIGTERM)
            assert worker.ended() == 0, "".join(worker.lines)
        more = [line for line in worker.lines if "HANDLED" in line][count:]
        assert not more, "more was handled than there should be"
        return heard


@pytest.fixture
def shop(tmp_path: Path, kafka39: Broker, unique_name: Name) -> Shop:
    return Shop(tmp_path / "shop", kafka39.address, unique_name("shop"))


def late_ms(handled: dict[str, Any]) -> int:
    """How long after its record was written a delivery was handled."""
    return int(handled["handled_ms"] - handled["timestamp_ms"])


def test_what_go_emits_python_handles(peer: Peer, shop: Shop) -> None:
    shop.write()
    events = [
        {
            "topic": shop.topic,
            "key": f"k{number}",
            "payload": {"id": number, "customer": "grün"},
            "correlation_id": f"cid-{number}",
            "locale": "de-DE" if number % 2 else "",
            "user": ADA if number % 2 else None,
        }
        for number in range(8)
    ]
    places = peer.emit(*events)
    handled = {one["payload"]["id"]: one for one in shop.handle(8)}
    for number, place in enumerate(places):
        one = handled[number]
        assert one["event_id"] == one["root_id"] == f"{shop.topic}-{place['partition']}-{place['offset']}"
        assert one["payload"] == events[number]["payload"]
        assert (one["key"], one["correlation_id"], one["attempt"]) == (f"k{number}", f"cid-{number}", 0)
        assert (one["locale"] or "") == events[number]["locale"]
        assert one["user"] == ("Ada Łovelace <&>" if number % 2 else "_guest")


def test_what_python_emits_go_handles_in_the_partition_that_it_would_choose(peer: Peer, shop: Shop) -> None:
    keys = [f"key-{number}" for number in range(8)]
    ada = User(
        type="_regular",
        identifier="u-42",
        email="ada@example.test",
        phone="+4912345",
        name="Ada Łovelace <&>",
        username="ada",
        is_active=True,
        roles=("admin", "ops"),
    )
    with SyncEmitter.from_config(shop.write()) as emitter:
        answers = emitter.emit_many(
            [
                Event(
                    channel=shop.topic,
                    payload={"id": number},
                    key=key,
                    correlation_id=f"cid-{number}",
                    user=ada if number % 2 else None,
                    locale="de",
                )
                for number, key in enumerate(keys)
            ]
        )
    assert all(isinstance(one, str) for one in answers)
    gos = peer.emit(*({"topic": shop.topic, "key": key, "payload": None} for key in keys))
    handled = {one["key"]: one for one in peer.consume(shop.topic, shop.action, count=16) if one["payload"]}
    for number, key in enumerate(keys):
        one = handled[key]
        assert (one["payload"], one["correlation_id"], one["locale"]) == ({"id": number}, f"cid-{number}", "de")
        assert one["user"]["_user_identifier"] == ("u-42" if number % 2 else "_guest_id")
        assert one["user"] == ADA or number % 2 == 0
        assert one["partition"] == gos[number]["partition"]


def test_a_ladder_that_go_began_goes_through_both_languages_to_the_dead_letter_and_back(peer: Peer, shop: Shop) -> None:
    policy = {"retries": 2, "initial": 1, "coefficient": 8}
    shop.write(fail=(1,), initial=1, coefficient=8)
    peer.emit({"topic": shop.topic, "key": "ada", "payload": {"id": 7}, "correlation_id": "cid", "user": ADA})

    (gos,) = peer.consume(shop.topic, shop.action, fail=[0], **policy)
    root = f"{shop.topic}-{gos['partition']}-0"
    assert gos["next"] == f"{shop.action}.retry.1"

    (ours,) = shop.handle()
    assert (ours["attempt"], ours["event_id"], ours["payload"]) == (1, root, {"id": 7})
    assert (ours["correlation_id"], ours["user"], ours["key"]) == ("cid", ADA["_user_name"], "ada")
    assert late_ms(ours) >= 1_000

    (again,) = peer.consume(shop.topic, shop.action, fail=[2], **policy)
    assert (again["attempt"], again["topic"], again["root_id"]) == (2, f"{shop.action}.retry.2", root)
    assert (again["root_action"], again["correlation_id"], again["user"]) == (shop.action, "cid", ADA)
    assert again["timestamp_ms"] >= ours["handled_ms"] - 1_000, "the retry record has a time of its own"
    assert late_ms(again) >= 8_000
    assert again["next"] == f"{shop.action}.dlq"

    (letter,) = shop.project.json("dlq", "list")
    assert (letter["action"], letter["event_id"]) == (shop.action, root)
    (shop.project.folder / "mended").touch()
    shop.project("dlq", "redrive", "--action", shop.action)
    (redriven,) = shop.handle()
    assert (redriven["event_id"], redriven["payload"], redriven["user"]) == (root, {"id": 7}, ADA["_user_name"])


def test_a_ladder_that_python_began_goes_through_both_languages_to_a_dead_letter_that_go_reads(
    peer: Peer, shop: Shop
) -> None:
    policy = {"retries": 2, "initial": 6, "coefficient": 1}
    with SyncEmitter.from_config(shop.write(fail=(0, 2), initial=6, coefficient=1)) as emitter:
        event_id = emitter.emit(shop.topic, {"id": 9}, key="ada", correlation_id="cid")

    (first,) = shop.handle()
    assert (first["attempt"], first["event_id"]) == (0, event_id)

    (gos,) = peer.consume(shop.topic, shop.action, fail=[1], **policy)
    assert (gos["attempt"], gos["payload"], gos["correlation_id"]) == (1, {"id": 9}, "cid")
    assert gos["root_id"].startswith(f"{shop.topic}-")
    assert late_ms(gos) >= 6_000

    (last,) = shop.handle()
    assert (last["attempt"], last["event_id"], last["payload"]) == (2, event_id, {"id": 9})
    assert late_ms(last) >= 6_000

    (letter,) = peer.consume(f"{shop.action}.dlq", f"{shop.action}-desk")
    assert (letter["key"], letter["payload"], letter["correlation_id"]) == ("ada", {"id": 9}, "cid")
    assert (letter["root_id"], letter["root_action"]) == (gos["root_id"], shop.action)


def test_protobuf_payloads_go_both_ways(peer: Peer, shop: Shop) -> None:
    config = shop.write(payload="Method")
    method = {"name": "create", "requestTypeUrl": "types/order", "requestStreaming": True}
    peer.emit({"topic": shop.topic, "key": "a", "encoder": "protobuf", "payload": method})
    (ours,) = shop.handle()
    assert ours["payload"] == method
    with SyncEmitter.from_config(config) as emitter:
        emitter.emit(shop.topic, Method(name="create", request_type_url="types/order", request_streaming=True), key="a")
    (gos,) = peer.consume(shop.topic, shop.action)
    assert gos["payload"] == method
