"""The judge catches what it is there for: broken brokers and workers are found, correct ones are not accused."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexa_worker.core import lineage
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked, DeadLettered, Released, RetryAt, Settlement
from hexa_worker.drivers.base import Unsettled
from hexa_worker.drivers.memory import MemorySource
from tests.unit.ledger_stage import MakeSource, Stage, changed, invariants


class AckBeforePublish(MemorySource):
    """Acknowledges first and stores the retry record a little later."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        await super().settle([Acked(one.delivery) for one in settlements if not isinstance(one, Released)])
        await anyio.sleep(0.1)
        if not self._lost:
            for one in settlements:
                if isinstance(one, RetryAt | DeadLettered):
                    self._store.append(one.record)
        return await super().settle(settlements)


class DropsReleased(MemorySource):
    """Takes a release for an acknowledgement."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        return await super().settle([Acked(one.delivery) if isinstance(one, Released) else one for one in settlements])


class LosesOnDeath(MemorySource):
    """Forgets what a dead process had in hand."""

    def _hand_back(self, released: Sequence[tuple[int, Delivery]]) -> None:
        if not self._lost:
            super()._hand_back(released)


class ForgetsRetries(MemorySource):
    """Acknowledges the original and never stores the retry record."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        return await super().settle([Acked(one.delivery) if isinstance(one, RetryAt) else one for one in settlements])


class ChangesRetries(MemorySource):
    """Stores retry records with something changed."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        return await super().settle(
            [
                RetryAt(one.delivery, self.change(one), one.delay_s, one.failure) if isinstance(one, RetryAt) else one
                for one in settlements
            ]
        )

    def change(self, retry: RetryAt) -> Message:
        raise NotImplementedError


class ForksIdentity(ChangesRetries):
    """Retry records lose the event id."""

    def change(self, retry: RetryAt) -> Message:
        names = frozenset({lineage.EVENT_ID, lineage.ROOT_ID})
        return changed(retry.record, headers=lineage.without(retry.record.headers, names))


class ForksRoot(ChangesRetries):
    """Retry records get a root of their own."""

    def change(self, retry: RetryAt) -> Message:
        return changed(retry.record, headers=(*retry.record.headers, (lineage.ROOT_ID, b"another")))


class ChangesPayload(ChangesRetries):
    """Retry records get another payload."""

    def change(self, retry: RetryAt) -> Message:
        return changed(retry.record, payload=retry.record.payload + b" ")


class ChangesKey(ChangesRetries):
    """Retry records lose their key."""

    def change(self, retry: RetryAt) -> Message:
        return changed(retry.record, key=None)


class ComesEarly(ChangesRetries):
    """Retry records are due at once."""

    def change(self, retry: RetryAt) -> Message:
        return changed(retry.record, due_ms=0)


class SkipsAttempts(ChangesRetries):
    """The first retry goes into the second retry channel."""

    def change(self, retry: RetryAt) -> Message:
        return changed(retry.record, channel=retry.record.channel.replace(".retry.1", ".retry.2"))


class EndsTwice(MemorySource):
    """Stores a dead letter of what succeeded, too."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        for one in settlements:
            if isinstance(one, Acked) and one.delivery.offset % 10 == 0:
                headers = (*one.delivery.headers, (lineage.ACTION, b"do"))
                self._store.append(changed(one.delivery, channel="do.dlq", headers=headers))
        return await super().settle(settlements)


class BuriesTwice(MemorySource):
    """Stores every dead letter twice."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        for one in settlements:
            if isinstance(one, DeadLettered):
                self._store.append(one.record)
        return await super().settle(settlements)


class HandsOutTwice(MemorySource):
    """Hands out some deliveries twice, as a broker without deduplication does after a lost confirmation."""

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        batch = await super().receive(max_count, max_bytes)
        return [*batch, *[one for one in batch if one.offset % 10 == 0]]


class Reverses(MemorySource):
    """Hands out each batch in reverse."""

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        return (await super().receive(max_count, max_bytes))[::-1]


class Invents(MemorySource):
    """Hands out something that nobody emitted."""

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        batch = await super().receive(max_count, max_bytes)
        return [*batch, changed(batch[0], payload=b'{"n": 10001}', headers=(), offset=10**6)] if batch else batch


CLEAN = {"events": 120}
KILLED = {"events": 120, "kills": 6}
STOPPED = {"events": 120, "stops": 4}


@pytest.mark.parametrize(
    ("mutant", "run", "caught_by"),
    [
        (AckBeforePublish, KILLED, {"I1"}),
        (DropsReleased, STOPPED, {"I1"}),
        (LosesOnDeath, KILLED, {"I1"}),
        (ForgetsRetries, CLEAN, {"I1"}),
        (ForksIdentity, CLEAN, {"I1", "I7"}),
        (ForksRoot, CLEAN, {"I7"}),
        (ChangesPayload, CLEAN, {"I7"}),
        (ChangesKey, CLEAN, {"I7"}),
        (ComesEarly, CLEAN, {"early"}),
        (SkipsAttempts, CLEAN, {"I7"}),
        (EndsTwice, CLEAN, {"I2"}),
        (BuriesTwice, CLEAN, {"I2"}),
        (HandsOutTwice, CLEAN, {"I2", "I7"}),
        (Invents, CLEAN, {"I7"}),
    ],
)
def test_a_mutant_is_caught(mutant: MakeSource, run: dict[str, int], caught_by: set[str], tmp_path: Path) -> None:
    assert caught_by <= invariants(Stage(tmp_path, mutant).run(**run))


def test_broken_order_is_caught(tmp_path: Path) -> None:
    assert "I8" in invariants(Stage(tmp_path, Reverses, order_by="key").run(events=60))


def test_a_consumer_that_stays_away_after_a_fault_is_caught(tmp_path: Path) -> None:
    assert invariants(Stage(tmp_path).run(events=120, kills=2, absent_s=5.0)) == {"I4"}


@pytest.mark.parametrize("order_by", ["none", "key"])
@pytest.mark.parametrize("run", [CLEAN, KILLED, STOPPED], ids=["clean", "killed", "stopped"])
def test_a_correct_worker_is_not_accused(run: dict[str, int], order_by: str, tmp_path: Path) -> None:
    assert Stage(tmp_path, order_by=order_by).run(**run) == []


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kills=st.integers(0, 5),
    stops=st.integers(0, 3),
    events=st.integers(0, 80),
    order_by=st.sampled_from(["none", "key", "channel"]),
)
def test_no_history_of_a_correct_worker_is_ever_accused(
    seed: int, kills: int, stops: int, events: int, order_by: str
) -> None:
    with TemporaryDirectory() as folder:
        stage = Stage(Path(folder), order_by=order_by, seed=seed)
        assert stage.run(events=events, kills=kills, stops=stops) == []
