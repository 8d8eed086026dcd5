"""The retry policy: which channel a failed delivery goes to, and when it is due.

Source of the rule: hexa-event's retry policy, without its truncation and overflow.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

MAX_DELAY_S = 365 * 24 * 3600.0
"""No delay is longer than this, whatever the arithmetic or a handler says."""
_WAITING_KEYS = 100
_SNOOZES = 100


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a failed delivery is retried, with nothing left open.

    `Retries` tells what the fields mean; their defaults stand here.
    """

    maximum_retries: int = 4
    initial_interval_s: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval_s: float | None = None
    retry_channels_count: int | None = None
    jitter: float = 0.0
    order: Literal["free", "key"] = "free"
    maximum_waiting_keys: int | None = None
    maximum_snoozes: int | None = None

    @property
    def channels_count(self) -> int:
        """How many retry channels exist: never fewer than maximum_retries, and one where snoozed events must wait."""
        return max(self.maximum_retries, self.retry_channels_count or 0, 1 if self.maximum_snoozes else 0)

    @property
    def snoozes_limit(self) -> int:
        """How often one event may be snoozed."""
        return _SNOOZES if self.maximum_snoozes is None else self.maximum_snoozes

    def delay_s(self, retry: int) -> float:
        """Seconds to wait before retry number `retry` (1-based), without jitter."""
        cap = 100 * self.initial_interval_s if self.maximum_interval_s is None else self.maximum_interval_s
        cap = min(cap, MAX_DELAY_S)
        try:
            delay = self.initial_interval_s * self.backoff_coefficient ** (retry - 1)
        except OverflowError:
            return cap
        return min(delay, cap)

    def waiting_keys(self, mailbox: int) -> int:
        """How many keys may wait in their place in a process whose mailbox holds `mailbox` deliveries."""
        return self.maximum_waiting_keys or max(min(_WAITING_KEYS, mailbox // 2), 1)

    def next_retry(self, attempt: int) -> int | None:
        """The number of the retry that follows delivery attempt `attempt` (0-based), or None: dead letter."""
        return attempt + 1 if attempt < self.maximum_retries else None


_DEFAULTS = RetryPolicy()


def _default(value: Any) -> dict[str, Any]:
    """The default of a field that is None while nobody states it, for editors and the reference."""
    return {"default": value}


_NAMES = {
    "maximum": "maximum_retries",
    "initial_s": "initial_interval_s",
    "maximum_s": "maximum_interval_s",
    "channels_count": "retry_channels_count",
}


class Retries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_NAMES):
    """How often and how late a failed delivery is retried. What is left out has its default.

    Attributes:
        maximum: how often a failed delivery is retried: a handler runs up to 1 + maximum_retries times.
            0 sends the first failure straight to the dead letter.
        initial_s: delay before retry 1, in seconds.
        backoff_coefficient: each delay is this many times the one before.
        maximum_s: longest delay, in seconds. Default: 100 x initial_interval_s.
        channels_count: how many retry channels are consumed, at least maximum_retries. Set it higher after
            lowering maximum_retries, so that records that still wait above it are consumed. Default: maximum_retries.
        jitter: each delay grows by a random share of up to this much (0.1: up to 10 % later). A delay never
            shrinks: no retry comes early.
        order: ``free``: a retry waits in a retry channel and later events overtake it. ``key``: it is retried in its
            worker; until then later events of its key (or channel, as ``order_by`` says) wait behind it, and all
            others continue. Needs ``order_by``.
        maximum_waiting_keys: with ``order = "key"``: how many keys of one process may wait for a retry at once.
            When one more fails, its lane stops until that retry. Default: 100, at most half of mailbox.
        maximum_snoozes: how often a handler may answer `Snooze` to one event; the next time it is dead-lettered.
            Where there are no retries, set it to get a retry channel that snoozed events wait in. Default: 100.
    """

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "maximum_attempts": "maximum_retries",
        "retry_topics_count": "retry_channels_count",
    }
    """Keys by the names they had, which worker.toml may still use."""

    maximum: Annotated[int, Meta(ge=0, le=1000, extra_json_schema=_default(_DEFAULTS.maximum_retries))] | None = None
    initial_s: Annotated[float, Meta(ge=0, extra_json_schema=_default(_DEFAULTS.initial_interval_s))] | None = None
    backoff_coefficient: (
        Annotated[float, Meta(ge=1, extra_json_schema=_default(_DEFAULTS.backoff_coefficient))] | None
    ) = None
    maximum_s: Annotated[float, Meta(ge=0)] | None = None
    channels_count: Annotated[int, Meta(ge=0, le=1000)] | None = None
    jitter: Annotated[float, Meta(ge=0, le=1, extra_json_schema=_default(_DEFAULTS.jitter))] | None = None
    order: Annotated[Literal["free", "key"], Meta(extra_json_schema=_default(_DEFAULTS.order))] | None = None
    maximum_waiting_keys: Annotated[int, Meta(ge=1)] | None = None
    maximum_snoozes: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None

    def stated(self) -> dict[str, Any]:
        """What is said, by the keys of worker.toml."""
        said = ((key, getattr(self, name)) for name, key in KEYS.items())
        return {key: value for key, value in said if value is not None}

    def over(self, beneath: Self) -> RetryPolicy:
        """The policy: key by key what this says, or else what `beneath` says, or else the default."""
        return RetryPolicy(**{**beneath.stated(), **self.stated()})


KEYS = dict(zip(Retries.__struct_fields__, Retries.__struct_encode_fields__, strict=True))
"""The key of worker.toml for each field of `Retries`."""


def clamp_delay_s(after_s: float) -> float:
    """A delay asked for by a handler, made usable: not negative, not NaN, at most `MAX_DELAY_S`."""
    if math.isnan(after_s):
        return 0.0
    return min(max(after_s, 0.0), MAX_DELAY_S)


def due_after(now_ms: int, delay_s: float) -> int:
    """When a delay from now is over, by a clock that cuts its time to whole milliseconds: never early."""
    return now_ms + math.ceil(delay_s * 1000) + 1 if delay_s > 0 else now_ms
