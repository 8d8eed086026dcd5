"""A stage in virtual time for retries that keep their place, and what its handlers saw."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from hexa_worker import Context
from hexa_worker.core import lineage
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.memory import MemoryStore
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.testing.virtual import Backend, VirtualTime
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture


def in_place(function: Callable[..., Any], *, limit: int | None = None, attempts: int = 3, **settings: Any) -> Plan:
    policy = RetryPolicy(initial_interval_s=1.0, maximum_retries=attempts, order="key", maximum_waiting_keys=limit)
    return plan_of(function, **{"order_by": OrderBy.KEY, "retry": policy, "timeout_s": 60.0, **settings})


class VirtualWorker:
    """A stage in virtual time, and what its handler saw."""

    def __init__(self, backend: Backend, **stage: Any) -> None:
        self.time = VirtualTime()
        self.stage = WorkerFixture(store=MemoryStore(self.time), **stage)
        self.seen: list[tuple[float, str, int]] = []
        self._backend = backend

    def emit(self, *texts: str) -> None:
        """Events like ``a1``: key ``a``, number 1."""
        for text in texts:
            headers = ((lineage.EVENT_ID, text.encode()),)
            message = Message(
                channel="events", payload=msgspec.json.encode(text), key=text[:1].encode(), headers=headers
            )
            self.stage.store.append(message)
        self.stage.store.wake()

    def note(self, text: str, ctx: Context) -> None:
        self.seen.append((round(self.time.monotonic(), 2), text, ctx.attempt))

    def failing(self, failures: dict[str, int]) -> Callable[..., Any]:
        """A handler that fails each named event so many times."""

        async def handle(text: str, ctx: Context) -> None:
            self.note(text, ctx)
            if ctx.attempt < failures.get(text, 0):
                raise ValueError("not yet")

        return handle

    @property
    def runs(self) -> list[tuple[str, int]]:
        return [(text, attempt) for _, text, attempt in self.seen]

    def at(self, text: str, attempt: int = 0) -> float:
        """When an attempt began."""
        return next(at for at, other, number in self.seen if (other, number) == (text, attempt))

    def finished(self) -> list[str]:
        """Events in the order of their successes."""
        done = [one for one in self.stage.settled if isinstance(one, Acked) and one.dropped is None]
        return [msgspec.json.decode(one.delivery.payload) for one in done]

    def run(self, *plans: Plan, **how: Any) -> None:
        assert self.time.run(partial(self.stage.run, clock=self.time, **how), *plans, backend=self._backend) == 0

    def play(self, scene: Callable[[], Any]) -> None:
        self.time.run(scene, backend=self._backend)


def of_key(key: str, texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text.startswith(key)]
