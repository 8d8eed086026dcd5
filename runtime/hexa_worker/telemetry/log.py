"""The log lines of one subscription: one per failure, rate-limited, never a payload, a header or a secret.

Error texts are the user's own words about their own failure and are shown; everything else is coordinates.
"""

import logging
import re
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any

from hexa_worker.clock import Clock
from hexa_worker.core.lineage import CORRELATION_ID, Lineage, lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.core.settlement import DeadLettered, Failure, Held, Postponed, RetryAt, is_snooze
from hexa_worker.errors import ConfigError, DriverError, DriverRejected
from hexa_worker.telemetry.report import LastFailure

FIELDS = "hexa_worker_fields"
"""The attribute of a log record that holds its structured fields."""
IN_HAND: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar("in hand", default=None)
"""What names the delivery that a log line of any library is about, where it is written by its handler."""
LOST_REPEAT_S = 10.0
SHOWN_MESSAGE = 500
"""Characters of a message that are reported."""
AWAY_REPEAT_S = 30.0
"""How often it is said that the broker is still away, for the same reason."""
_RESERVED = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime"))
"""What logging refuses in ``extra``."""
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)? s\b")


def reason_of(error: DriverError) -> str:
    """What an error says, however long it took: with what was said before of the same reason it is equal."""
    return _SECONDS.sub("… s", str(error))


class DeliveryLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger bound to one delivery: its lines carry the delivery's coordinates."""

    def __init__(self, logger: logging.Logger, fields: Mapping[str, object]) -> None:
        super().__init__(logger, dict(fields))

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Add the bound fields, and what the caller passed as ``extra``: that is a record's own, as of any logger."""
        extra = kwargs.get("extra") or {}
        own = {name: value for name, value in extra.items() if name not in _RESERVED}
        kwargs["extra"] = {**own, FIELDS: {**(self.extra or {}), **extra}}
        return msg, kwargs


def coordinates(action: str, delivery: Delivery, lineage: Lineage) -> dict[str, object]:
    """What names a delivery in a log line."""
    correlation = header(delivery.headers, CORRELATION_ID)
    return {
        "action": action,
        "channel": delivery.channel,
        "message_id": delivery.message_id,
        "event_id": lineage.event_id,
        "root_id": lineage.root_id,
        "correlation_id": None if correlation is None else correlation.decode(errors="replace"),
        "attempt": delivery.attempt,
    }


class _LastLine:
    """The last line of one kind, and how many like it were kept quiet since."""

    __slots__ = ("fields", "level", "quiet", "since", "text")

    def __init__(self, since: float) -> None:
        self.since = since
        self.quiet = 0
        self.level = logging.INFO
        self.text = ""
        self.fields: Mapping[str, object] = {}


class SubscriptionLog:
    """Writes a subscription's lines; the same failure once per `repeat_s`, and how many more there were.

    Args:
        action: the subscription's name.
        clock: measures `repeat_s`.
        repeat_s: seconds between two lines of one kind.
    """

    def __init__(self, action: str, clock: Clock, repeat_s: float = 1.0) -> None:
        self.action = action
        self._clock = clock
        self._repeat_s = repeat_s
        self._logger = logging.getLogger("hexa_worker.delivery")
        self._failed: Failure | None = None
        self._failed_ms = 0
        self._last: dict[Hashable, _LastLine] = {}
        self._told_ignored = False

    @property
    def debug(self) -> bool:
        """Whether debug lines are written."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def bound(self, delivery: Delivery, lineage: Lineage, items: int = 1) -> DeliveryLogger:
        """What `ctx.logger` is; of a batch its lines carry the first item's coordinates and how many `items` it has."""
        fields = coordinates(self.action, delivery, lineage)
        if items > 1:
            fields["items"] = items
        return DeliveryLogger(logging.getLogger("hexa_worker.handler"), fields)

    def failure(self, settlement: RetryAt | Postponed | DeadLettered) -> None:
        """A delivery was not acknowledged. Most calls write nothing, so the line is only made once it is wanted."""
        failure = settlement.failure
        if not isinstance(settlement, DeadLettered) and is_snooze(settlement):
            self._snoozed(settlement)
            return
        self._failed = failure
        self._failed_ms = self._clock.now_ms()
        line = self._suppressed((failure.error, failure.reason, type(settlement)), self._repeat_s)
        if line is not None:
            self._tell_failure(settlement, failure, line)

    @property
    def last_failure(self) -> LastFailure | None:
        """The latest failure; None before the first."""
        failure = self._failed
        if failure is None:
            return None
        return LastFailure(self._failed_ms, failure.reason, failure.error, failure.message[:SHOWN_MESSAGE])

    def _tell_failure(self, settlement: RetryAt | Postponed | DeadLettered, failure: Failure, line: _LastLine) -> None:
        if isinstance(settlement, Postponed):
            level = logging.WARNING
            following = f"retry {settlement.again.attempt} in {settlement.delay_s:g} s, in its place"
        elif isinstance(settlement, RetryAt):
            number = settlement.record.channel.rpartition(".")[2]
            level, following = logging.WARNING, f"retry {number} in {settlement.delay_s:g} s"
        else:
            level, following = logging.ERROR, "dead letter"
        fields: dict[str, object] = {"next": following, "error": failure.error, "reason": failure.reason}
        if failure.traceback and (self.debug or isinstance(settlement, DeadLettered)):
            fields["traceback"] = failure.traceback
        self._write_kept(
            line, level, f"handler failed: {failure.message or failure.error}", settlement.delivery, fields
        )

    def _snoozed(self, settlement: RetryAt | Postponed) -> None:
        reason, count = settlement.failure.message, settlement.delivery.snoozes + 1
        fields = {"next": f"again in {settlement.delay_s:g} s", "snoozes": count}
        text = f"snoozed: {reason}" if reason else "snoozed"
        self._limited(text, logging.INFO, lambda: text, settlement.delivery, fields)

    def dropped(self, delivery: Delivery, reason: str) -> None:
        """The handler did not want it."""
        self._limited(f"drop|{reason}", logging.INFO, lambda: f"dropped: {reason}", delivery, {"next": "none"})

    def hook_failed(self, error: Exception) -> None:
        """An outcome hook raised."""
        text = f"an outcome hook failed: {type(error).__qualname__}: {error}"
        if self._suppressed(text, self._repeat_s) is not None:
            self._logger.error(text, extra={FIELDS: {"action": self.action}}, exc_info=error)

    def ignored(self, result: object) -> None:
        """A handler returned something that means nothing; said once."""
        if self._told_ignored:
            return
        self._told_ignored = True
        try:
            kind = type(result).__name__
        except BaseException:  # noqa: BLE001 - a class of the user's may do anything
            kind = "thing without a name"
        text = f"the handler returned a {kind}, which nobody gets: return None or an outcome, or set reply_to"
        self._logger.warning(text, extra={FIELDS: {"action": self.action}})

    def duplicate(self, delivery: Delivery) -> None:
        """The event was handled before."""
        self._limited("duplicate", logging.INFO, lambda: "a duplicate, not handled again", delivery, {"next": "none"})

    def waiting(self, delivery: Delivery) -> None:
        """Somebody else has the event in hand."""
        text = "another delivery of this event is in hand, waiting for its end"
        self._limited("waiting", logging.INFO, lambda: text, delivery, {"next": "asked again"})

    def overtaken(self, delivery: Delivery) -> None:
        """Its claim ran out and was given to somebody else while it was in hand."""
        text = "the claim was taken over by another delivery of this event: it may have been handled twice"
        self._limited("overtaken", logging.WARNING, lambda: text, delivery, {"next": "none"})

    def unclaimed(self, error: DriverError) -> None:
        """Events are handled without looking for duplicates."""
        self._limited_plain("unclaimed", logging.WARNING, f"handled without deduplication: {error}", LOST_REPEAT_S)

    def withheld(self, error: DriverError) -> None:
        self._limited_plain("withheld", logging.WARNING, f"on hold without deduplication: {error}", LOST_REPEAT_S)

    def lease_lost(self, delivery: Delivery) -> None:
        """Somebody else has it by now."""
        self._limited("lease", logging.WARNING, lambda: "lease lost, not settled", delivery, {"next": "redelivery"})

    def held(self, settlement: Held) -> None:
        """Its retries are used up, and its subscription stands still because of it."""
        failure = settlement.failure
        fields: dict[str, object] = {"next": "held", "error": failure.error, "reason": failure.reason}
        fields |= {"traceback": failure.traceback} if failure.traceback else {}
        text = (
            f"no retry is left, the subscription stands still until it is resumed: {failure.message or failure.error}"
        )
        self._limited(f"held|{failure.error}", logging.ERROR, lambda: text, settlement.delivery, fields)

    def parked(self, delivery: Delivery, error: DriverError) -> None:
        """The broker refuses its retry or dead-letter record."""
        text = f"retry or dead-letter record refused, the original is kept: {error}"
        self._limited("parked", logging.ERROR, lambda: text, delivery, {"next": "tried again"})

    def too_large(self, settlement: RetryAt | DeadLettered, error: DriverError) -> None:
        """The broker refuses its retry or dead-letter record for its size."""
        if isinstance(settlement, RetryAt):
            text, following = f"retry too large, dead-lettered instead: {error}", "dead letter"
        else:
            text, following = f"dead letter too large, stored cut: {error}", "dead letter, cut"
        self._limited(f"too-large|{following}", logging.ERROR, lambda: text, settlement.delivery, {"next": following})

    def parking_full(self, count: int) -> None:
        """No room is left for what the broker refuses."""
        text = (
            f"{count} deliveries are parked and there is room for no more: nothing is received until the broker takes "
            "their records, or they are dropped (hexa-worker dlq park)"
        )
        self._limited_plain("parking-full", logging.ERROR, text, LOST_REPEAT_S)

    def stuck(self, delivery: Delivery, seconds: float) -> None:
        """A handler ignores its cancellation."""
        text = f"handler does not end {seconds:g} s after its deadline"
        self._write(logging.CRITICAL, text, delivery, {"next": "process is killed"})

    def broker_away(self, error: DriverError) -> None:
        """The broker cannot be reached; tried again for ever."""
        kind = ("away", reason_of(error))
        self._limited_plain(kind, logging.WARNING, f"broker is away, trying again: {error}", AWAY_REPEAT_S)

    def crashed(self, error: BaseException, delay_s: float | None) -> None:
        """The subscription's worker failed outside a handler."""
        fields = {"action": self.action, "next": "given up" if delay_s is None else f"restart in {delay_s:.1f} s"}
        if isinstance(error, DriverRejected | ConfigError):  # the text says all there is to say
            text = f"subscription failed: {error}"
            if delay_s is None or self._suppressed(text, self._repeat_s) is not None:
                self._logger.error(text, extra={FIELDS: fields})
            return
        text = f"subscription failed: {type(error).__qualname__}: {error}"
        self._logger.error(text, extra={FIELDS: fields}, exc_info=error)

    def full_of_paused(self) -> None:
        """What is kept of paused keys leaves no room."""
        text = "what is kept of its paused keys fills the mailbox: nothing more is received until they are resumed"
        self._logger.warning(text, extra={FIELDS: {"action": self.action}})

    def info(self, text: str, **fields: object) -> None:
        """Something worth knowing about the subscription as a whole."""
        self._logger.info(text, extra={FIELDS: {"action": self.action, **fields}})

    def tell_repeats(self, *, at_end: bool = False) -> None:
        """Say how many lines were kept quiet, of kinds that were not heard of since; `at_end` of all.

        To be called every now and then: the last of a burst is followed by no line that could tell.
        """
        now = self._clock.monotonic()
        for line in self._last.values():
            if line.quiet and line.text and (at_end or now - line.since >= self._repeat_s):
                fields = {"action": self.action, **line.fields, "traceback": None, "repeated": line.quiet}
                self._logger.log(line.level, "%s (and more like it)", line.text, extra={FIELDS: fields})
                line.quiet = 0

    def _suppressed(self, kind: Hashable, repeat_s: float) -> _LastLine | None:
        """None: stay quiet now; else what is known of lines of this kind. Who writes one keeps it there."""
        now = self._clock.monotonic()
        line = self._last.get(kind)
        if line is not None and now - line.since < repeat_s:
            line.quiet += 1
            return None
        if line is None:
            if len(self._last) >= 1000:  # noqa: PLR2004 - unlimited kinds of failure must not grow this for ever
                self.tell_repeats(at_end=True)
                self._last.clear()
            line = self._last[kind] = _LastLine(now)
        line.since = now
        return line

    def _limited(
        self, kind: str, level: int, text: Callable[[], str], delivery: Delivery, fields: Mapping[str, object]
    ) -> None:
        line = self._suppressed(kind, self._repeat_s)
        if line is not None:
            self._write_kept(line, level, text(), delivery, fields)

    def _limited_plain(self, kind: Hashable, level: int, text: str, repeat_s: float) -> None:
        line = self._suppressed(kind, repeat_s)
        if line is not None:
            line.quiet = 0  # a state that goes on, not so many events
            self._logger.log(level, text, extra={FIELDS: {"action": self.action}})

    def _write_kept(
        self, line: _LastLine, level: int, text: str, delivery: Delivery, fields: Mapping[str, object]
    ) -> None:
        line.level, line.text, line.fields = level, text, fields
        self._write(level, text, delivery, {**fields, "repeated": line.quiet} if line.quiet else fields)
        line.quiet = 0

    def _write(self, level: int, text: str, delivery: Delivery, fields: Mapping[str, object]) -> None:
        place = coordinates(self.action, delivery, lineage_of(delivery))
        self._logger.log(level, text, extra={FIELDS: {**place, **fields}})
