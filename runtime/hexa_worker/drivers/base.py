"""The seam between the runtime and a broker, at batch level.

A `Driver` is one process's connection to one broker; a `Source` is one subscription's stream of deliveries.
Actors know brokers by these protocols only, and differences between brokers are declared in `Capabilities`,
never asked with isinstance. Drivers never import actors.

Rules every driver keeps (the conformance suite checks them):

- the retry or dead-letter record of a settlement is durable before its original is acknowledged;
- a lease (or whatever the broker calls its claim) is kept alive by the driver for every delivery that it
  handed out and that is not settled, for as long as the process lives and its loop runs;
- nothing is settled after its claim is lost: `Source.settle` answers `LeaseLost` for it;
- every broker call is bounded by a deadline, also when the broker is dead: `DriverUnavailable`;
- a delivery is known by its source, offset and token: what comes back in a settlement may be a copy;
- a vendor exception never escapes; cancellation is never reported as a failure.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hexa_worker.core.channels import LATER, dead_letter_channel, retry_channels
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Settlement
from hexa_worker.errors import DriverError, DriverUnavailable
from hexa_worker.record_formats.form import Wire


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver promises; docs/drivers.md is generated from it.

    Attributes:
        name: the driver's name in worker.toml.
        durable: a confirmed publish survives the death of every process.
        shared: several processes may consume one subscription.
        order: what order it keeps across processes.
        delays_events: it keeps events that are emitted for later until they are due.
        delay_accuracy_s: a due record comes at most this late while the machine keeps up; never early.
        redelivery_s: how long a dead process's deliveries stay away, about; None: never needed.
        counts_deliveries: the broker itself counts deliveries that ended in a crash.
        patterns: subscriptions by pattern work.
        max_payload: bytes of the largest payload it takes; None: no limit of its own.
        virtual_time: it follows an injected clock.
        revokes: when a process joins or leaves, all others give up what they have in hand (after `Revoked`), and
            no process knows what another one has in hand.
        header_order: it keeps the order of headers.
        header_duplicates: it keeps all headers of one name; otherwise the last one wins.
        keeps_attempts: what waits for a retry in its place keeps its attempt and its time when another process gets
            it; otherwise its ladder begins anew.
        empty_keys: it keeps an empty key apart from no key.
        notes: other differences a user should know, one sentence each.
    """

    name: str
    durable: bool
    shared: bool
    order: frozenset[OrderBy]
    delay_accuracy_s: float
    redelivery_s: float | None
    counts_deliveries: bool
    patterns: bool
    max_payload: int | None
    delays_events: bool = False
    virtual_time: bool = False
    revokes: bool = False
    header_order: bool = True
    header_duplicates: bool = True
    keeps_attempts: bool = False
    empty_keys: bool = True
    notes: tuple[str, ...] = ()


class SubscriptionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver must know of one subscription.

    Attributes:
        action: the subscription's name.
        group: the durable name of its progress in the broker (consumer group, durable).
        channels: what it reads; empty when `pattern` is set.
        pattern: a regular expression that whole channel names must match; None for `channels`.
        retry_base: its retry channels and dead letter are named after it.
        retry_count: how many retry channels it consumes.
        order_by: which deliveries may not overtake each other.
        start: ``earliest`` or ``latest``: where a subscription without progress begins.
        options: the driver's own options table for this subscription, already typed; None: its defaults.
        wire: what its records look like, see `hexa_worker.record_formats`; None: as in the rest of the broker.
        retry_delays_ms: how long the records of each retry channel wait when they do not say it themselves
            (hexa-event writes such records); without it they are due at once.
        mailbox_bytes: how many bytes of payload its worker holds at most; what a driver fetches ahead follows it.
        ladder: the records of each of its retry channels above the first are due in the order in which they were
            written, so that few of each need to be held.
        in_place: retries wait in their place, for any time: what does not wait behind them must go on coming.
    """

    action: str
    group: str
    channels: tuple[str, ...]
    retry_base: str
    retry_count: int
    pattern: str | None = None
    order_by: OrderBy = OrderBy.NONE
    start: str = "earliest"
    options: Any = None
    wire: Wire | None = None
    retry_delays_ms: tuple[int, ...] = ()
    in_place: bool = False
    ladder: bool = False
    mailbox_bytes: int = 64 * 1024 * 1024

    def reads(self, channel: str) -> bool:
        """Whether `channel` is one of its own; retry channels and dead letters are not."""
        if self.pattern is None:
            return channel in self.channels
        return not channel.startswith(LATER) and re.fullmatch(self.pattern, channel) is not None

    def channels_among(self, known: Iterable[str]) -> tuple[str, ...]:
        """The channels it reads, of a pattern those among `known`; never its own retry channels and dead letters."""
        if self.pattern is None:
            return self.channels
        matches = re.compile(self.pattern).fullmatch
        own = {*self.retry_channels, self.dead_letter_channel}
        return tuple(name for name in known if name not in own and not name.startswith(LATER) and matches(name))

    @property
    def retry_channels(self) -> tuple[str, ...]:
        """The retry channels, in order of their number."""
        return retry_channels(self.retry_base, self.retry_count)

    @property
    def dead_letter_channel(self) -> str:
        """The channel that keeps the dead letters."""
        return dead_letter_channel(self.retry_base)


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription still has to do, all processes together.

    Attributes:
        ready: messages nobody has in hand that could be delivered now.
        delayed: retry records that are not due yet.
        leased: messages some process has in hand.
        next_due_ms: when the earliest delayed record is due; None without delayed records.
        dead_letters: how many dead letters it has; None: nobody counted them (only `Driver.backlog` does).
    """

    ready: int
    delayed: int
    leased: int
    next_due_ms: int | None = None
    dead_letters: int | None = None

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not (self.ready or self.delayed or self.leased)

    @property
    def waits_only(self) -> bool:
        """Nothing can be done now."""
        return not (self.ready or self.leased)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in the broker that a subscription needs, as it was found.

    Attributes:
        kind: ``channel``, ``retry channel``, ``dead letter``, or what the broker calls the place where a subscription's
            progress is kept (``group``, ``durable``, ``subscription``).
        name: its name in the broker.
        exists: whether it is there; None: it cannot be told.
        rights: what this login may do with it, in the broker's words; None: the broker does not tell.
        problem: why a worker could not start with it; empty: it could. What a worker would make is no problem.
        warning: what a worker that starts with it would lose or do wrong later, and what to do about it, in one
            sentence; empty: nothing. Logged once at every start, so it must be true and worth an operator's time.
        note: what else is worth knowing, for people.
    """

    kind: str
    name: str
    exists: bool | None
    rights: tuple[str, ...] | None = None
    problem: str = ""
    warning: str = ""
    note: str = ""


class Unsettled(msgspec.Struct, frozen=True):
    """A settlement that did not take effect.

    Attributes:
        settlement: what was asked.
        error: `LeaseLost` (forget it), `DriverRejected` (the broker refused the retry or dead-letter
            record: the original is not acknowledged) or `DriverUnavailable` (try again).
    """

    settlement: Settlement
    error: DriverError


Revoked = Callable[[frozenset[str]], Awaitable[None]]
"""Called by a source that is about to lose some of its `Delivery.source`s; returns when the worker has
forgotten what it had queued of them and has settled what it had in hand, as far as time allows."""


async def nothing_revoked(_sources: frozenset[str], /) -> None:
    """For callers whose source cannot lose anything."""


def confirmed(answers: Sequence[str | DriverError]) -> Sequence[str | DriverError]:
    """What became of each message, as `Driver.publish` answers.

    Raises:
        DriverUnavailable: none is confirmed, and not all are refused.
    """
    unavailable: DriverUnavailable | None = None
    for answer in answers:
        if type(answer) is str:
            return answers
        if isinstance(answer, DriverUnavailable):
            unavailable = answer
    if unavailable is not None:
        raise unavailable
    return answers


class Source(Protocol):
    """One subscription's deliveries in one process."""

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """Wait for deliveries: its channels' and its due retries, at most `max_count`.

        Stops adding when the payloads exceed `max_bytes` (one delivery may exceed it alone).

        Returns:
            At least one delivery, or an empty list once `stop` was called.

        Raises:
            DriverUnavailable: the broker is away. Calling again later is right: a source heals itself.
            DriverRejected: it will never work (the channel does not exist, no rights).

        Cancellation: safe between deliveries only as a last resort; the runtime stops a pump by `stop`.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """Make settlements take effect, each retry or dead-letter record durable before its acknowledgement.

        What is told to be settled of a delivery that was in hand at a crash (`Delivery.crashes`) should survive the
        death of this process at once: the next handler may be the one that kills it. For others that may take its time.

        `Postponed` comes only to drivers that keep attempts: the delivery stays in hand. If it is handed out again,
        here or elsewhere, it has `Postponed.note` as its attempt and the ``due_ms`` of ``again``; its place does not
        change, and it comes at once: waiting is the runtime's business.

        Returns:
            What did not take effect; empty when all is well.

        Raises:
            DriverUnavailable: nothing is known of any of them; the caller tries the whole batch again, so
                settling twice is harmless.

        Cancellation: shielded by the caller; bounded by the driver's own deadline.
        """
        ...

    async def backlog(self) -> Backlog:
        """What is left to do. Raises DriverUnavailable."""
        ...

    def stop(self) -> None:
        """Receive no more: a waiting `receive` returns what it has, then empty lists. Idempotent."""
        ...

    async def close(self) -> None:
        """Hand back everything unsettled, at once where the broker can. Idempotent; a dead broker is no error."""
        ...


class Driver(Protocol):
    """One process's connection to one broker."""

    @property
    def capabilities(self) -> Capabilities:
        """What it promises."""
        ...

    async def open(self) -> None:
        """Connect. Raises DriverUnavailable (worth retrying), DriverRejected or ConfigError (not worth it)."""
        ...

    async def close(self) -> None:
        """Close every source and the connection. Idempotent, also before `open`; never raises for a dead broker."""
        ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """Store messages durably, in order per channel and key.

        Returns:
            For each message its id in the broker (`Delivery.message_id`) once confirmed, the DriverRejected that
            refused it, or the DriverUnavailable that kept it from being confirmed (it may have been stored).

        Raises:
            DriverUnavailable: none is confirmed; some may have been stored.
        """
        ...

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """Create or check what the subscriptions need: channels, retry channels, dead letters, positions.

        From then on what is published to their channels is kept for them.
        """
        ...

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> Source:
        """Start consuming as `spec` says (it declares it first where needed)."""
        ...

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """Read up to `limit` records of `channel` with offsets above `after`, without consuming them.

        For the dlq commands and trace. Start with -1; an empty answer is the end. What the broker stored before
        `since_ms` (of the wall clock) may be left out, which saves time where it can find a time.
        """
        ...

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """Delete records of a dead-letter channel; returns how many were there."""
        ...

    async def channels(self) -> Sequence[str]:
        """The names of every channel that exists, sorted."""
        ...

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """What a subscription has left to do and its dead letters, without taking part in it.

        Nothing is made, joined or disturbed; it works while its workers run and while none does. What the broker
        does not tell apart counts as ready. A subscription that never ran has left what it would begin with.

        Raises:
            DriverUnavailable: the broker is away.
            DriverRejected: this login may not look.
        """
        ...

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """What of the things that a subscription needs is there, and what stands in its way. Changes nothing.

        For ``check --connect``, and for warnings soon after the start of a worker (which looks for `LIMIT_S` of
        `hexa_worker.actors.inspector` at most). Raises DriverUnavailable.
        """
        ...

    async def inspect(self) -> Mapping[str, str]:
        """What can be told of the broker: versions, addresses without secrets, what can be reached.

        For ``check --connect``. Raises DriverUnavailable.
        """
        ...
