"""A subscription's deliveries in one process: its consumers, what is in hand, and settling."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Released, Settlement
from hexa_worker.drivers.base import Backlog, SubscriptionSpec, Unsettled
from hexa_worker.drivers.kit.delay_queue import DelayQueue
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.kit.settling import WithRecord, store_records
from hexa_worker.drivers.pulsar.backlog import InFlight
from hexa_worker.drivers.pulsar.batch_acks import Place, Token
from hexa_worker.drivers.pulsar.consumer import ConsumerThread
from hexa_worker.drivers.pulsar.consumer_settings import own_options
from hexa_worker.drivers.pulsar.publisher import PublishCall
from hexa_worker.drivers.pulsar.threads import Threads
from hexa_worker.errors import DriverError, DriverUnavailable, LeaseLost

LOOK_S = 5.0
HELD = 5_000
"""How many retries that are not due yet are kept; others wait in the broker."""
CLOSE_S = 5.0
ACKED_S = 0.4
"""Acknowledgements are at the broker after this long."""


class SourceHooks(NamedTuple):
    """What a source asks of whoever makes it, and tells them.

    Attributes:
        measure: asks the broker how much waits, given what is in flight here; may block.
        ending: told first that it ends.
        close: called while its consumers are closed; may block.
        closed: called when all else is closed and there is time left; may block.
    """

    measure: Callable[[InFlight], Backlog]
    ending: Callable[[], None]
    close: Callable[[], None]
    closed: Callable[[], None]


class PulsarSource:
    """One subscription in one process.

    Args:
        spec: the subscription.
        begin: sends retries and dead letters off.
        clock: tells what is due.
        loop: the event loop that it is used on.
        threads: for what blocks.
        hooks: see there.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        spec: SubscriptionSpec,
        begin: Callable[[Sequence[Message]], PublishCall],
        clock: Clock,
        loop: LoopHandle,
        threads: Threads,
        hooks: SourceHooks,
    ) -> None:
        self.spec = spec
        self.consumers: list[ConsumerThread] = []
        self.known: dict[Place, ConsumerThread] = {}
        """Everything that was read and is not settled, with where it came from."""
        self._begin = begin
        self._sent: dict[Place, tuple[PublishCall, int]] = {}  # their record is sent, nobody has told what became of it
        self._loop = loop
        self._threads = threads
        self._ahead = 2 * own_options(spec).batch_receive
        self._ahead_bytes = spec.mailbox_bytes // 2
        self._lock = threading.Lock()
        self._ready_bytes = 0  # of what is ready, or on its way to the loop
        self._waiting_bytes = 0
        self._ready: deque[Delivery] = deque()
        self._waiting = DelayQueue(clock)  # retries, and events for later, that came before they were due
        self._later = 0  # how many of them are events
        self._written: set[Place] = set()  # their record is stored, their acknowledgement is not sent yet
        self._work = anyio.Event()
        self._stopped = False
        self._closed = False
        self._hooks = hooks
        self.settled_at = -ACKED_S
        """When something was settled, by the clock that is monotonic."""
        self._measuring = anyio.Lock()

    # -- what the consumers call, on their threads

    def arrived(self, deliveries: list[Delivery], size: int) -> None:
        """Deliveries have come, with so many bytes of payload."""
        self._count(size)
        self._loop.post(self._take_in, deliveries)

    def changed(self) -> None:
        """A consumer has got into trouble, or out of it."""
        self._loop.post(self._wake)

    def full(self) -> bool:
        return len(self._ready) >= self._ahead or self._ready_bytes >= self._ahead_bytes

    def retries_full(self) -> bool:
        """Enough is ready, or waits for its time."""
        return self.full() or len(self._waiting) >= HELD or self._waiting_bytes >= self._ahead_bytes

    def _count(self, size: int) -> None:
        with self._lock:  # a thread adds what it reads, the loop what it takes
            self._ready_bytes += size

    # -- on the loop

    def _take_in(self, deliveries: list[Delivery]) -> None:
        ready = [one for one in deliveries if not self._waiting.hold(one)]
        self._ready += map(_in_time, ready)
        if len(ready) < len(deliveries):
            held = bytes_of(deliveries) - bytes_of(ready)
            self._waiting_bytes += held
            self._count(-held)
            self._later += _events_in(deliveries) - _events_in(ready)
        self._wake()

    def _let_due(self) -> None:
        due = self._waiting.take_due()
        if due:
            self._ready += map(_in_time, due)
            self._later -= _events_in(due)
            size = bytes_of(due)
            self._waiting_bytes -= size
            self._count(size)

    def _wake(self) -> None:
        self._work.set()

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`."""
        while not self._stopped:
            self._let_due()
            if self._ready:
                return self._take(max_count, max_bytes)
            for consumer in self.consumers:
                if consumer.trouble is not None:
                    raise consumer.trouble
            self._work = anyio.Event()
            with anyio.move_on_after(self._waiting.patience_s(LOOK_S)):
                await self._work.wait()
        return []

    def _take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        ready = self._ready
        taken: list[Delivery] = []
        size = 0
        while ready and len(taken) < max_count and not (taken and size + len(ready[0].payload) > max_bytes):
            size += len(ready[0].payload)
            taken.append(ready.popleft())
        self._count(-size)
        if not self.full():
            for consumer in self.consumers:
                consumer.room.set()
        return taken

    # -- settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        failed = [] if self._closed else await self._write(settlements)
        if self._closed:  # before, or while records were written: then nothing is acknowledged any more
            return [Unsettled(one, LeaseLost("the source is closed")) for one in settlements]
        refused = {id(one.settlement) for one in failed}
        connected = {consumer: consumer.connected for consumer in self.consumers}
        acks: dict[ConsumerThread, list[tuple[Place, Token]]] = {consumer: [] for consumer in self.consumers}
        released: list[Delivery] = []
        take, known = self.known.pop, self.known
        for one in settlements:
            delivery = one.delivery
            place = (delivery.source, delivery.offset)
            consumer = take(place, None)
            if consumer is None:
                continue  # settled before
            if type(one) is Released:
                known[place] = consumer
                released.append(delivery)
            elif refused and id(one) in refused:
                known[place] = consumer
            elif connected[consumer]:
                acks[consumer].append((place, delivery.token))
            else:
                known[place] = consumer
                failed.append(Unsettled(one, DriverUnavailable(f"pulsar: {consumer.what}: the connection is lost")))
        self._acknowledge(acks)
        self._hand_back(released)
        return failed

    def _acknowledge(self, acks: Mapping[ConsumerThread, Sequence[tuple[Place, Token]]]) -> None:
        self.settled_at = monotonic()
        for consumer, settled in acks.items():
            if settled:
                consumer.acknowledge(settled)
                if self._written:
                    self._written.difference_update([place for place, _ in settled])

    async def _write(self, settlements: Sequence[Settlement]) -> list[Unsettled]:
        """Store retries and dead letters that are not stored yet; what was refused."""
        records = [
            one
            for one in settlements
            if isinstance(one, WithRecord)
            and (one.delivery.source, one.delivery.offset) in self.known
            and (one.delivery.source, one.delivery.offset) not in self._written
        ]
        if not records:
            return []
        for consumer in {self.known[one.delivery.source, one.delivery.offset] for one in records}:
            if not consumer.connected:
                raise DriverUnavailable("pulsar: the connection is lost")
        durable, unsettled = await store_records(records, self._send)
        self._written.update([(one.delivery.source, one.delivery.offset) for one in durable])
        return unsettled

    async def _send(self, records: Sequence[WithRecord]) -> Sequence[str | DriverError]:
        """Send the records that are not under way, and wait for what becomes of all."""
        fresh = [one for one in records if (one.delivery.source, one.delivery.offset) not in self._sent]
        if fresh:
            call = self._begin([one.record for one in fresh])
            for number, one in enumerate(fresh):
                self._sent[one.delivery.source, one.delivery.offset] = (call, number)
        sent = [self._sent[one.delivery.source, one.delivery.offset] for one in records]
        calls = {call for call, _ in sent}
        with anyio.move_on_after(max(call.patience_s for call in calls)):
            for call in calls:
                await call.ended.wait()
        answers: list[str | DriverError] = []
        for one, (call, number) in zip(records, sent, strict=True):
            answer = call.answers[number]
            if answer is None:  # it stays under way: it is not sent again while it may still be stored
                answer = DriverUnavailable(f"pulsar: {one.record.channel}: not confirmed in time")
            else:
                self._sent.pop((one.delivery.source, one.delivery.offset), None)
            answers.append(answer)
        return answers

    def _hand_back(self, released: Sequence[Delivery]) -> None:
        """Deliver again, in order; who else should have them gets them when this source is closed."""
        for delivery in sorted(released, key=lambda one: (one.source, one.offset), reverse=True):
            self._ready.appendleft(delivery)
        self._count(bytes_of(released))
        if released:
            self._wake()

    # -- looking

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        if self._closed:
            raise DriverUnavailable("pulsar: the source is closed")
        async with self._measuring:
            recent = self.settled_at + ACKED_S - monotonic()
            if recent > 0:
                await anyio.sleep(recent)
            found: Backlog = await self._threads.run(self._hooks.measure, self._in_flight())
            if found.leased > self._in_flight().total:
                await anyio.sleep(ACKED_S)  # others may have acknowledged what the broker has not heard of yet
                found = await self._threads.run(self._hooks.measure, self._in_flight())
            return found

    def _in_flight(self) -> InFlight:
        """What was handed out and is not settled, and what waits here."""
        known = list(self.known.values())
        retries = sum(1 for consumer in known if consumer.retries)
        queued_retries = sum(1 for one in self._ready if one.attempt) + len(self._waiting) - self._later
        queued = len(self._ready) + len(self._waiting) - queued_retries
        return InFlight(len(known) - retries - queued, retries - queued_retries, queued, self._later)

    # -- the end

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = True
        self._wake()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._threads.run(self._close_consumers)
        self._forget()

    def _close_consumers(self) -> None:
        """Close everything at once, and leave behind what takes too long: a frozen broker does, for each consumer."""
        self._hooks.ending()
        deadline = monotonic() + CLOSE_S
        _run_together([self._hooks.close, *(consumer.close for consumer in self.consumers)], deadline)
        if monotonic() < deadline:
            _run_together([self._hooks.closed], deadline)

    def abandon(self) -> None:
        """Vanish as a killed process does: for tests."""
        self._closed = True
        self.stop()
        self._hooks.ending()
        for consumer in self.consumers:
            consumer.abandon()
        self._forget()

    def _forget(self) -> None:
        self.known.clear()
        self._ready.clear()
        self._waiting.clear()
        self._later = 0
        self._written.clear()
        self._sent.clear()


def _run_together(calls: Sequence[Callable[[], None]], deadline: float) -> None:
    threads = [threading.Thread(target=call, name="hexa-pulsar-close", daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - monotonic(), 0.0))


def _in_time(delivery: Delivery) -> Delivery:
    """An event that was for later is as any other now; a retry tells when it was due."""
    return delivery if delivery.attempt or not delivery.due_ms else replace(delivery, due_ms=0)


def _events_in(deliveries: Sequence[Delivery]) -> int:
    return sum(not one.attempt for one in deliveries)


def bytes_of(deliveries: Sequence[Delivery]) -> int:
    return sum([len(one.payload) for one in deliveries])
