"""What is done about an outcome: acknowledge, retry later, postpone, dead-letter, release.

`settle` is total: every outcome has a settlement. It writes the retry or dead-letter record too, so that
each driver only has to make that record durable BEFORE it acknowledges the original.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import assert_never

import msgspec
from msgspec.structs import replace

from hexa_worker.core import lineage, snoozes
from hexa_worker.core.channels import dead_letter_channel, is_retry_channel, retry_channel
from hexa_worker.core.classification import ErrorAnswer, Rules, answer_to
from hexa_worker.core.failure_log import FAILURES, with_failure
from hexa_worker.core.message import Delivery, Headers, Message, header
from hexa_worker.core.ordering import OrderBy, order_key
from hexa_worker.core.outcome import (
    Ack,
    Crashed,
    DeadLetter,
    Drop,
    Interrupted,
    Outcome,
    Raised,
    Retry,
    Snooze,
    TimedOut,
    Undecodable,
    cause_of,
    is_hopeless,
)
from hexa_worker.core.retry import RetryPolicy, clamp_delay_s, due_after
from hexa_worker.core.scrubbing import encodable, scrub

ERROR = "hexa-error"
ERROR_MESSAGE = "hexa-error-message"
REASON = "hexa-reason"
TRACEBACK = "hexa-traceback"
FINGERPRINT = "hexa-fingerprint"
DEAD_AT = "hexa-dead-at"
REFUSED = "hexa-refused"
"""Why the broker refused the record that was to be stored instead."""
CUT_SIZE = "hexa-cut-size"
"""A dead letter with this header is not whole: bytes of the payload that it stands for."""
CUT_CHANNEL = "hexa-cut-channel"
CUT_ID = "hexa-cut-id"
"""With `CUT_CHANNEL` where the whole lies, as long as the broker keeps it."""
FAILURE_HEADERS = frozenset(
    {ERROR, ERROR_MESSAGE, REASON, TRACEBACK, FINGERPRINT, DEAD_AT, REFUSED, CUT_SIZE, CUT_CHANNEL, CUT_ID}
)
SNOOZED = "snoozed"
"""`Failure.reason` of what is no failure: it only comes again later."""
_ROUTE_HEADERS = frozenset({lineage.ACTION, lineage.ATTEMPT, lineage.SNOOZES, lineage.FIRST_FAILED_AT, FAILURES})
_KEPT_BY_SNOOZE = frozenset({lineage.FIRST_FAILED_AT, FAILURES, ERROR, ERROR_MESSAGE, REASON})
_REPLACED_ALWAYS = FAILURE_HEADERS | _ROUTE_HEADERS
_REPLACED_WITH_ORIGIN = _REPLACED_ALWAYS | {lineage.ORIGIN_CHANNEL, lineage.ORIGIN_ID, lineage.ORIGIN_AT}
_REPLACED_AT_FIRST = _REPLACED_WITH_ORIGIN | {lineage.REDRIVEN_FROM, lineage.REDRIVEN_FOR}
"""Only a redrive says so, and it writes to retry channels."""

MESSAGE_LIMIT = 1_000
_LOOKED_AT = 64 * 1024
TRACEBACK_LIMIT = 8_000


class Route(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Where the failures of one subscription go.

    Attributes:
        action: the subscription's name.
        retry_base: what retry channels and dead letter are named after.
        policy: how often and how late.
        in_place: what a retry keeps its order with: it is run again where it stands, and what follows waits.
        rules: what the classes of errors mean.
        holds: what used up its retries stays where it is; otherwise it is dead-lettered.
    """

    action: str
    retry_base: str
    policy: RetryPolicy
    in_place: OrderBy = OrderBy.NONE
    rules: Rules = {}
    holds: bool = False

    @cached_property
    def ladder(self) -> tuple[tuple[str, float], ...]:
        """Retry channel of each retry, and its delay in seconds without jitter, in order."""
        numbers = range(1, self.policy.maximum_retries + 1)
        return tuple((retry_channel(self.retry_base, number), self.policy.delay_s(number)) for number in numbers)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a delivery was not acknowledged; what logs and dead letters say.

    Attributes:
        error: class of the error, or of the verdict.
        message: what it said, at most `MESSAGE_LIMIT` characters.
        reason: ``failed``, ``timeout``, ``undecodable``, ``crashed`` or ``asked``; `SNOOZED` where nothing failed.
        traceback: at most `TRACEBACK_LIMIT` characters, innermost frames kept; may be empty.
        permanent: no retry can help.
    """

    error: str
    message: str
    reason: str
    traceback: str = ""
    permanent: bool = False

    @property
    def fingerprint(self) -> str:
        """The same for failures that look alike: class, and message with its numbers and ids blanked."""
        from hashlib import blake2b  # noqa: PLC0415 - loads OpenSSL, 3 MiB in every process, for the rare case

        blanked = re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "#", self.message, flags=re.IGNORECASE)
        return blake2b(f"{self.error}\n{blanked}".encode(errors="replace"), digest_size=6).hexdigest()


class Acked(msgspec.Struct, frozen=True, gc=False):
    """Acknowledge: the delivery is finished. `dropped` when the handler did not want it."""

    delivery: Delivery
    dropped: str | None = None


class RetryAt(msgspec.Struct, frozen=True, gc=False):
    """Store `record` in its retry channel, due at ``record.due_ms``; then acknowledge the original."""

    delivery: Delivery
    record: Message
    delay_s: float
    failure: Failure


class Postponed(msgspec.Struct, frozen=True, gc=False):
    """Keep the delivery in hand, and run it as `again` (the next attempt of the same record) at ``again.due_ms``."""

    delivery: Delivery
    again: Delivery
    delay_s: float
    failure: Failure

    @property
    def note(self) -> int:
        """What a driver keeps, and hands out as the attempt, when another process gets the delivery."""
        return snoozes.packed(self.again)


class DeadLettered(msgspec.Struct, frozen=True, gc=False):
    """Store `record` in the dead-letter channel; then acknowledge the original."""

    delivery: Delivery
    record: Message
    failure: Failure


class Released(msgspec.Struct, frozen=True, gc=False):
    """Hand the delivery back to the broker, undone; no attempt is consumed."""

    delivery: Delivery


class Held(msgspec.Struct, frozen=True, gc=False):
    """Keep the delivery in flight and start nothing behind it, until somebody resumes the subscription.

    No driver is told: it is not settled.
    """

    delivery: Delivery
    failure: Failure


Settlement = Acked | RetryAt | Postponed | DeadLettered | Released


def is_snooze(settlement: Settlement) -> bool:
    """Whether it comes again though it has not failed."""
    return isinstance(settlement, RetryAt | Postponed) and settlement.failure.reason == SNOOZED


def of_suspects(settlements: Sequence[Settlement]) -> list[Settlement]:
    """Those of deliveries that were in hand when a process died; see `hexa_worker.drivers.base.Source.settle`."""
    return [settlement for settlement in settlements if settlement.delivery.crashes]


def settle(  # noqa: PLR0913 - the whole decision is a function of these
    outcome: Outcome, delivery: Delivery, route: Route, *, now_ms: int, jitter: float = 0.0, traceback: str = ""
) -> Settlement:
    """Decide what is done about `outcome`.

    Args:
        outcome: what became of the handler call.
        delivery: the delivery it was about.
        route: the subscription's channels and policy.
        now_ms: wall clock, milliseconds since the epoch.
        jitter: a random number in [0, 1); it only ever lengthens a delay.
        traceback: of a raised error, already formatted (an exception cannot be formatted purely).
    """
    match outcome:
        case Raised() | Retry() | DeadLetter() | TimedOut() | Undecodable() | Crashed():
            answer = answer_to(outcome, route.rules) if route.rules else None
            failure = describe(outcome, traceback)
            if answer is ErrorAnswer.DROP:
                return Acked(delivery, dropped=f"{failure.error} is in drop_on: {failure.message}")
            if answer is not None:
                failure = replace(failure, permanent=answer is ErrorAnswer.DEAD_LETTER)
        case Ack() | Drop():
            dropped = (outcome.reason or "dropped by the handler") if isinstance(outcome, Drop) else None
            return Acked(delivery, dropped)
        case Snooze():
            return _snoozed(outcome, delivery, route, now_ms)
        case Interrupted():
            return Released(delivery)
        case _:
            assert_never(outcome)
    if failure.permanent or delivery.attempt >= len(route.ladder):
        return DeadLettered(delivery, dead_letter_record(delivery, route, failure, now_ms), failure)
    after = outcome.after if isinstance(outcome, Retry) else None
    return _again(delivery, route, failure, after, now_ms, jitter)


def _again(  # noqa: PLR0913 - a part of `settle`
    delivery: Delivery, route: Route, failure: Failure, after: float | None, now_ms: int, jitter: float
) -> RetryAt | Postponed:
    """The next attempt, after the delay that the policy or the handler (`after`) says."""
    channel, delay_s = route.ladder[delivery.attempt]
    if after is not None:
        delay_s = clamp_delay_s(after)
    delay_s *= 1 + route.policy.jitter * jitter
    number = delivery.attempt + 1
    headers = _record_headers(delivery, route.action, number, failure, now_ms)
    due_ms = due_after(now_ms, delay_s)
    if keeps_place(delivery, route):
        again = replace(delivery, headers=headers, due_ms=due_ms, attempt=number)
        return Postponed(delivery, again, delay_s, failure)
    record = Message(
        channel=channel,
        payload=delivery.payload,
        key=delivery.key,
        headers=headers,
        timestamp_ms=now_ms,
        due_ms=due_ms,
    )
    return RetryAt(delivery, record, delay_s, failure)


def held_instead(settlement: Settlement, route: Route) -> Held | None:
    """What is done instead where retries that are used up hold the subscription; None: `settlement` stands.

    What no retry could help is dead-lettered all the same.
    """
    if route.holds and isinstance(settlement, DeadLettered) and not settlement.failure.permanent:
        return Held(settlement.delivery, settlement.failure)
    return None


def gives_up(outcome: Outcome, delivery: Delivery, route: Route) -> bool:
    """Whether a delivery that failed so is not retried: its traceback is kept."""
    if isinstance(outcome, DeadLetter | Undecodable | Crashed) or delivery.attempt >= len(route.ladder):
        return True
    answer = answer_to(outcome, route.rules) if route.rules else None
    if answer is None:
        return isinstance(outcome, Raised) and is_hopeless(outcome.error)
    return answer is ErrorAnswer.DEAD_LETTER


def _snoozed(verdict: Snooze, delivery: Delivery, route: Route, now_ms: int) -> Settlement:
    """It comes again as the attempt that it is: in its place, or by the retry channel that stands nearest to it."""
    in_place, policy = keeps_place(delivery, route), route.policy
    problem = ""
    if delivery.snoozes >= policy.snoozes_limit:
        problem = f"snoozed {delivery.snoozes} times, more often than maximum_snoozes allows"
    elif not (in_place or policy.channels_count):
        problem = "there is no retry channel that it can wait in (set retry.maximum_snoozes)"
    if problem:
        failure = _asked(verdict, "", problem)
        return DeadLettered(delivery, dead_letter_record(delivery, route, failure, now_ms), failure)
    failure = _snooze(_asked(verdict, "").message)
    delay_s = clamp_delay_s(verdict.after)
    due_ms = due_after(now_ms, delay_s)
    rung, count = max(delivery.attempt, 1), delivery.snoozes + 1
    found = dict(delivery.headers)
    headers = _identity(delivery, found) + _step(route.action, delivery.attempt if in_place else rung)
    headers += ((lineage.SNOOZES, snoozes.spelled(count, None if in_place else delivery.attempt)),)
    if delivery.comes_again:
        headers += tuple([pair for pair in delivery.headers if pair[0] in _KEPT_BY_SNOOZE])
    if in_place:
        again = replace(delivery, headers=headers, due_ms=due_ms, snoozes=count)
        return Postponed(delivery, again, delay_s, failure)
    record = Message(
        channel=retry_channel(route.retry_base, rung),
        payload=delivery.payload,
        key=delivery.key,
        headers=headers,
        timestamp_ms=now_ms,
        due_ms=due_ms,
    )
    return RetryAt(delivery, record, delay_s, failure)


def keeps_place(delivery: Delivery, route: Route) -> bool:
    """Whether a retry of `delivery` is run where it stands.

    What has no key keeps no order, and what was read from a retry channel has lost its place long ago: both go to
    retry channels.
    """
    if order_key(route.in_place, delivery.key, delivery.channel) is None:
        return False
    return not (delivery.comes_again and is_retry_channel(route.retry_base, delivery.channel))


def counted(delivery: Delivery, route: Route) -> Delivery:
    """A delivery that a source calls a retry, with attempt and snoozes told apart.

    One that another process had postponed is as that process had it in hand, as far as can be known: what its headers
    say of a retry are claims from outside, for it was read from where it was emitted to.
    """
    if is_retry_channel(route.retry_base, delivery.channel):
        if header(delivery.headers, lineage.ATTEMPT) != b"%d" % delivery.attempt:
            return delivery  # written by somebody else, who kept the headers of the record before
        attempt, count = snoozes.read(header(delivery.headers, lineage.SNOOZES), delivery.attempt)
        return replace(delivery, attempt=attempt, snoozes=count) if count else delivery
    attempt, count = snoozes.unpacked(delivery.attempt)
    if not keeps_place(delivery, route):
        return replace(delivery, attempt=attempt, snoozes=count) if count else delivery
    first = replace(delivery, attempt=0)
    headers = _identity(first, dict(first.headers)) + _step(route.action, attempt) + _snoozes(count)
    return replace(delivery, headers=headers, attempt=attempt, snoozes=count)


def describe(outcome: Retry | DeadLetter | Raised | TimedOut | Undecodable | Crashed, traceback: str = "") -> Failure:
    """The failure that an unsuccessful outcome stands for."""
    match outcome:
        case Retry() | DeadLetter():
            return _asked(outcome, traceback)
        case Raised():
            error = outcome.error
            failure = _failure(type(error).__qualname__, _bounded(_text_of(error)), is_hopeless(error))
            return replace(failure, traceback=traceback[-TRACEBACK_LIMIT:]) if traceback else failure
        case TimedOut():
            message = f"still running after {outcome.timeout_s:g} s"
            return Failure(error="HandlerTimeout", message=message, reason="timeout")
        case Undecodable():
            message = _bounded(_without_values(outcome.error))
            return Failure(error="DecodeError", message=message, reason="undecodable", permanent=True)
        case Crashed():
            message = f"the worker process died {outcome.crashes} times with this delivery in hand"
            message += f", the last time: {outcome.why}" if outcome.why else ""
            return Failure(error="ProcessCrashed", message=message, reason="crashed", permanent=True)
        case _:
            assert_never(outcome)


def _asked(verdict: Retry | DeadLetter | Snooze, traceback: str, problem: str = "") -> Failure:
    """The failure that a handler asked for itself; one that had a cause goes by the cause's class.

    A `problem` is why it does not get what it asked for.
    """
    kinds = (Retry, DeadLetter, Snooze)
    name = next(kind.__name__ for kind in kinds if isinstance(verdict, kind))
    text, cause = verdict.reason, cause_of(verdict)
    if cause is not None:
        name = type(cause).__qualname__
        text = f"{text}: {_text_of(cause)}" if text else _text_of(cause)
    return Failure(
        error=name,
        message=_bounded(f"{problem}: {text}" if problem and text else problem or text),
        reason="asked",
        traceback=traceback[-TRACEBACK_LIMIT:],
        permanent=isinstance(verdict, DeadLetter) or bool(problem),
    )


def _text_of(error: BaseException) -> str:
    """``str(error)``, whatever a hostile ``__str__`` does; a plain str, whatever it returns."""
    try:
        return str.__str__(str(error))
    except BaseException as second:  # noqa: BLE001 - any error in a user's __str__ must not take the worker down
        return f"<{type(error).__qualname__} whose text raised {type(second).__qualname__}>"


_SHOWN = re.compile(r"(Invalid (?:enum )?value|Object contains unknown field) .*?( - at `[^`]*`)?", re.DOTALL)


def _without_values(error: BaseException) -> str:
    """What is wrong with a payload, without what it holds: msgspec shows the value where only some are allowed."""
    text = _text_of(error)
    if isinstance(error, msgspec.ValidationError):
        found = _SHOWN.fullmatch(text)
        return text if found is None else f"{found[1]}{found[2] or ''}"
    return text


def _bounded(text: str) -> str:
    text = scrub(encodable(text[:_LOOKED_AT]))
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


# A failing subscription writes the same few values again and again: their header pairs are made once and shared.


def _header_text(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


@lru_cache(maxsize=256)
def _pairs(*names_and_texts: str) -> Headers:
    """Header pairs of names and texts that follow one another."""
    return tuple(zip(names_and_texts[::2], map(_header_text, names_and_texts[1::2]), strict=True))


@lru_cache(maxsize=256)
def _failure(error: str, message: str, hopeless: bool) -> Failure:  # noqa: FBT001 - cached by its values
    return Failure(error=error, message=message, reason="failed", permanent=hopeless)


@lru_cache(maxsize=256)
def _snooze(message: str) -> Failure:
    return Failure(error=Snooze.__name__, message=message, reason=SNOOZED)


def _snoozes(count: int) -> Headers:
    return ((lineage.SNOOZES, snoozes.spelled(count)),) if count else ()


def _step(action: str, attempt: int) -> Headers:
    return _pairs(lineage.ACTION, action, lineage.ATTEMPT, str(attempt))


def _times(first_failed_at: bytes, failures: bytes) -> Headers:
    return (lineage.FIRST_FAILED_AT, first_failed_at), (FAILURES, failures)


def _words(failure: Failure) -> Headers:
    return _pairs(ERROR, failure.error, ERROR_MESSAGE, failure.message, REASON, failure.reason)


@lru_cache(maxsize=64)
def _first_story(action: str, attempt: int, failure: Failure, now_ms: int) -> Headers:
    """What is said of an event's first failure: the same of all that fail so in one millisecond."""
    return _step(action, attempt) + _times(b"%d" % now_ms, with_failure(None, 0, now_ms)) + _words(failure)


def _record_headers(delivery: Delivery, action: str, attempt: int, failure: Failure, now_ms: int) -> Headers:
    """Headers of the record that follows a failure: user headers are kept, `attempt` is that of the record."""
    found = dict(delivery.headers)
    identity = _identity(delivery, found)
    if delivery.snoozes:
        identity += _snoozes(delivery.snoozes)
    if delivery.attempt == 0:
        return identity + _first_story(action, attempt, failure, now_ms)
    first_failed_at = found.get(lineage.FIRST_FAILED_AT) or b"%d" % now_ms
    times = _times(first_failed_at, with_failure(found.get(FAILURES), delivery.attempt, now_ms))
    return identity + _step(action, attempt) + times + _words(failure)


def _identity(delivery: Delivery, found: Mapping[str, bytes]) -> Headers:
    """Headers less those that every failure writes anew, with who the event is and where it came from.

    `found` are the delivery's headers by name.
    """
    headers = delivery.headers
    first_hop = not delivery.comes_again
    tells_origin = first_hop or lineage.ORIGIN_CHANNEL not in found
    replaced = _REPLACED_AT_FIRST if first_hop else _REPLACED_WITH_ORIGIN if tells_origin else _REPLACED_ALWAYS
    added: Headers = ()
    if not lineage.is_id(found.get(lineage.EVENT_ID)):
        replaced |= {lineage.EVENT_ID}
        added = ((lineage.EVENT_ID, lineage.id_by_place(delivery).encode("ascii")),)
    if tells_origin:
        origin_id = (lineage.ORIGIN_ID, _header_text(delivery.message_id))
        origin_at = (lineage.ORIGIN_AT, b"%d" % delivery.timestamp_ms)
        added = (*added, *_pairs(lineage.ORIGIN_CHANNEL, delivery.channel), origin_id, origin_at)
    if not replaced.isdisjoint(found):
        headers = tuple([pair for pair in headers if pair[0] not in replaced])
    return headers + added


def dead_letter_record(delivery: Delivery, route: Route, failure: Failure, now_ms: int) -> Message:
    """The record that a delivery leaves in its dead-letter channel."""
    headers = _record_headers(delivery, route.action, delivery.attempt, failure, now_ms)
    headers += (*_pairs(FINGERPRINT, failure.fingerprint), (DEAD_AT, b"%d" % now_ms))
    if failure.traceback:
        headers += ((TRACEBACK, _header_text(failure.traceback)),)
    return Message(
        channel=dead_letter_channel(route.retry_base),
        payload=delivery.payload,
        key=delivery.key,
        headers=headers,
        timestamp_ms=now_ms,
    )
