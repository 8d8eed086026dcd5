"""A driver with a wire format around it: forms at the broker, ours inside, on a real run of the runtime."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct

from hexa_worker.config.load import parse_config
from hexa_worker.core.lineage import ATTEMPT, lineage_of, origin_headers
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, RetryAt, Settlement
from hexa_worker.drivers.base import SubscriptionSpec, Unsettled
from hexa_worker.drivers.formats import ChannelFormats, FormattingDriver, FormattingSource
from hexa_worker.drivers.kafka.records import timed
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.drivers.opening import forms_of, make_driver
from hexa_worker.errors import DriverUnavailable
from hexa_worker.record_formats.form import Form, Wire
from hexa_worker.subscriptions.api import Context
from hexa_worker.subscriptions.loader import load_plans
from tests.actors.worker_fixture import WorkerFixture

WORKER = '[worker]\nname = "shop"\nhandlers = ["h"]\n'


def forms(more: str) -> ChannelFormats:
    return forms_of(parse_config(WORKER + more, Path("worker.toml")))


def test_a_subscription_has_its_own_form_and_the_rest_the_brokers() -> None:
    found = forms(
        '[broker]\ndriver = "kafka"\nwire = "hexa"\n'
        '[subscriptions.check]\nchannel = "orders"\nwire = "cloudevents"\n'
        '[subscriptions.bill]\nchannel = "bills"\nretry_channel = "old.bill"\n'
    )
    ours = Form("cloudevents", "kafka", "shop", "check")
    assert [found.of(name) for name in ("orders", "check.retry.2", "check.dlq")] == [ours] * 3
    assert {found.of(name).wire for name in ("bills", "old.bill.dlq", "else", "x.retry.1")} == {"hexa"}


def test_channels_of_decorators_are_learned_when_they_are_declared() -> None:
    found = ChannelFormats(Form())
    spec = SubscriptionSpec(action="a", group="a", channels=("c",), retry_base="a", retry_count=1, wire="hexa")
    found.learn([spec])
    assert (found.of("c").wire, found.of("a.dlq").wire, found.of("d").wire) == ("hexa", "hexa", "plain")


def test_without_a_form_nothing_stands_around_the_driver() -> None:
    text = WORKER + '[broker]\ndriver = "memory"\n'
    assert isinstance(make_driver(parse_config(text, Path("w"))), MemoryDriver)
    assert isinstance(make_driver(parse_config(text + 'wire = "hexa"\n', Path("w"))), FormattingDriver)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


HANDLERS = """
from hexa_worker import subscribe

SEEN = []

@subscribe("events", action="act")
async def act(payload: dict, ctx):
    SEEN.append((payload, ctx))
    if payload.get("child"):
        await ctx.emit("children", {})
    if payload.get("fail"):
        raise ValueError("no")
"""


@pytest.mark.anyio
@pytest.mark.parametrize("wire", ["hexa", "cloudevents", "cloudevents-structured"])
@pytest.mark.parametrize("broker", ["kafka", "nats"])
async def test_an_event_is_one_event_from_its_emit_to_its_dead_letter(
    wire: Wire, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"handlers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f'[worker]\nname = "shop"\nhandlers = ["{name}"]\n[broker]\ndriver = "memory"\nwire = "{wire}"\n'
    text += "[subscriptions.act.retry]\nmaximum_retries = 2\ninitial_interval_s = 0.01\n"
    loaded = load_plans(parse_config(text, tmp_path / "worker.toml"))
    stage = WorkerFixture()
    driver = FormattingDriver(MemoryDriver(stage.store), ChannelFormats(Form(wire, broker, "shop")))
    payload = b'{"fail": true, "child": true}'
    await driver.publish([Message(channel="events", payload=payload, headers=origin_headers("e1"), key=b"k")])
    assert await stage.run(*loaded.plans, driver=driver) == 0
    assert stage.kinds() == ["RetryAt", "RetryAt", "DeadLettered"]
    seen: list[Context[Any]] = [ctx for _, ctx in __import__(name).SEEN]
    assert [(ctx.event_id, ctx.attempt, ctx.key) for ctx in seen] == [("e1", 0, "k"), ("e1", 1, "k"), ("e1", 2, "k")]
    (letter,) = await driver.browse("act.dlq", -1, 10)
    assert (letter.payload, lineage_of(letter).event_id) == (payload, "e1")
    children = await driver.browse("children", -1, 10)
    assert [lineage_of(child).parent_id for child in children] == ["e1"] * 3
    (raw,) = await MemoryDriver(stage.store).browse("act.dlq", -1, 10)
    assert ("_ctx_user" if wire == "hexa" else "specversion") in repr((raw.headers, raw.payload))


class Refusing:
    """A source that settles nothing."""

    def __init__(self) -> None:
        self.given: list[Settlement] = []

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        self.given = list(settlements)
        return [Unsettled(one, DriverUnavailable("away")) for one in settlements]


@pytest.mark.anyio
async def test_what_is_not_settled_comes_back_as_it_was_given() -> None:
    delivery = Delivery(channel="c", payload=b"", source="c-0", offset=1)
    record = Message(channel="a.retry.1", payload=b"{}", headers=origin_headers("e1"))
    given: list[Settlement] = [Acked(delivery), RetryAt(delivery, record, 1.0, None)]  # type: ignore[arg-type]
    source: Any = Refusing()
    unsettled = await FormattingSource(source, Form("hexa", "nats")).settle(given)
    assert all(one.settlement is before for one, before in zip(unsettled, given, strict=True))
    written = source.given[1]
    assert isinstance(written, RetryAt | DeadLettered)
    assert set(json.loads(written.record.payload)) == {"header", "payload"}


def test_gos_retries_are_due_after_the_delay_of_their_topic() -> None:
    policy = RetryPolicy(initial_interval_s=1, maximum_retries=2)
    delays = [round(policy.delay_s(number) * 1000) for number in (1, 2)]

    def record(attempt: int, due_ms: int, written_for: int | None = None) -> Delivery:
        headers = () if written_for is None else ((ATTEMPT, b"%d" % written_for),)
        fields = {"channel": "c", "payload": b"", "source": "c-0", "offset": 0, "timestamp_ms": 10_000}
        return Delivery(**fields, attempt=attempt, due_ms=due_ms, headers=headers)  # type: ignore[arg-type]

    go, go_2, ours, beyond = record(1, 0), record(2, 0), record(1, 10_700, 1), record(3, 0)
    stale = [
        record(2, 9_000, 1),
        record(2, 10_000, 1),
        record(2, 10_001, 1),
    ]  # written about when ours was due
    due = [one.due_ms for one in timed([go, go_2, ours, *stale, beyond], delays)]
    assert due == [11_000, 12_000, 10_700, 12_000, 12_000, 12_000, 0]


@pytest.mark.parametrize("codec", ["msgpack", "protobuf"])
def test_beside_a_binary_codec_gos_json_is_understood(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"binary_{codec}"
    payload_type = {"msgpack": "dict", "protobuf": "Struct"}[codec]
    (tmp_path / f"{name}.py").write_text(
        "from google.protobuf.struct_pb2 import Struct\nfrom hexa_worker import subscribe\n"
        f'@subscribe("events", action="act")\nasync def act(payload: {payload_type}): ...\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f'[worker]\nname = "shop"\nhandlers = ["{name}"]\n[broker]\ndriver = "memory"\n'
    text += f'[subscriptions.act]\ncodec = "{codec}"\n'
    binary: Any = Struct()
    binary["a"] = "b"
    payload = msgspec.msgpack.encode({"a": "b"}) if codec == "msgpack" else binary.SerializeToString()
    (plain,) = load_plans(parse_config(text, tmp_path / "worker.toml")).plans
    (both,) = load_plans(parse_config(text + 'wire = "hexa"\n', tmp_path / "worker.toml")).plans
    assert dict(both.handler.decode(payload)) == dict(both.handler.decode(b'{"a":"b"}')) == {"a": "b"}
    with pytest.raises(plain.handler.decode_errors):
        plain.handler.decode(b'{"a":"b"}')
    with pytest.raises(both.handler.decode_errors):
        both.handler.decode(b'{"a":')
