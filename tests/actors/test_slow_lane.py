"""A key whose handler takes long, among many whose handlers do not."""

from functools import partial
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.core.lineage import EVENT_ID
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.testing.virtual import Backend
from tests.actors.conftest import plan_of
from tests.actors.test_order_dedup import dedup_theatre, with_dedup
from tests.actors.virtual_worker import VirtualWorker

LANES = 16
SLOW_S = 12.0


def emit(theatre: VirtualWorker, keys: int, rounds: int) -> None:
    """One event of the slow key, then `rounds` of each of the others."""
    names = [b"slow", *[b"k%d" % number for number in range(keys)] * rounds]
    for place, key in enumerate(names):
        message = Message(
            channel="events", payload=msgspec.json.encode(key.decode()), key=key, headers=((EVENT_ID, b"e%d" % place),)
        )
        theatre.stage.store.append(message)


async def handle(theatre: VirtualWorker, key: str, ctx: Context) -> None:
    await anyio.sleep(SLOW_S if key == "slow" else 0.05)
    theatre.note(key, ctx)


async def handle_batch(theatre: VirtualWorker, keys: list[str], _ctx: Any) -> None:
    await anyio.sleep(SLOW_S if "slow" in keys else 0.05)
    theatre.seen += [(theatre.time.monotonic(), key, 0) for key in keys]


def others(keys: int) -> set[str]:
    """The keys that are not in the slow one's lane."""
    names = [b"k%d" % number for number in range(keys)]
    slow = stripe_of(b"slow", 0, LANES)
    return {name.decode() for name in names if stripe_of(name, 0, LANES) != slow}


def plan(theatre: VirtualWorker, **settings: Any) -> Plan:
    function = handle_batch if "batch" in settings else handle
    defaults = {"order_by": OrderBy.KEY, "concurrency": LANES, "mailbox": 1000, "timeout_s": 0.0}
    return plan_of(partial(function, theatre), **{**defaults, **settings})


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch": 4}, {"retry": RetryPolicy(order="key", initial_interval_s=1.0)}],
    ids=["one by one", "batches", "retries in their place"],
)
def test_what_stands_behind_a_slow_key_keeps_no_other_lane_waiting(backend: Backend, settings: dict[str, Any]) -> None:
    theatre = VirtualWorker(backend)
    emit(theatre, 250, 6)
    theatre.time.run(partial(theatre.stage.run, clock=theatre.time), plan(theatre, **settings), backend=backend)
    early = [key for at, key, _ in theatre.seen if at < SLOW_S - 1 and key in others(250)]
    assert len(early) == 6 * len(others(250))
    assert len(theatre.seen) == 1501


def test_the_mailbox_bounds_what_stands_behind_a_slow_key(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    emit(theatre, 250, 6)
    held: list[int] = []

    async def scene() -> None:
        async with theatre.stage.running(plan(theatre, mailbox=100), clock=theatre.time):
            while len(theatre.seen) < 300:
                await anyio.sleep(1)
            await anyio.sleep(3)
            held.extend(one.held for report in theatre.stage.reports for one in report.subscriptions)

    theatre.play(scene)
    assert 90 <= max(held) <= 100


def test_copies_that_wait_for_their_event_keep_nothing_else_waiting(backend: Backend) -> None:
    theatre = dedup_theatre(backend)
    for number, name in enumerate(["slow"] * 100 + ["k"] * 200):
        headers = ((EVENT_ID, b"slow" if name == "slow" else b"e%d" % number),)
        theatre.stage.store.append(Message(channel="events", payload=msgspec.json.encode(name), headers=headers))
    quick = with_dedup(plan(theatre, order_by=OrderBy.NONE, concurrency=2))
    theatre.time.run(partial(theatre.stage.run, clock=theatre.time), quick, backend=backend)
    assert len([at for at, key, _ in theatre.seen if key == "k" and at < SLOW_S - 1]) == 200
    assert len(theatre.seen) == 201
