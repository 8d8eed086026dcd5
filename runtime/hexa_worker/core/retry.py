"""The retry policy: which channel a failed delivery goes to, and when it is due.

Source of the rule: hexa-event's retry policy, without its truncation and overflow.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

MAX_DELAY_S = 365 * 24 * 3600.0
"""No delay is longer than this, whatever the arithmetic or a handler says."""
_WAITING_KEYS = 100
Interval = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, le=1000)]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how late a failed delivery is retried.

    Attributes:
        initial_interval_s: delay before retry 1, in seconds.
        backoff_coefficient: each delay is this many times the one before.
        maximum_interval_s: longest delay, in seconds. Default: 100 x initial_interval_s.
        maximum_retries: how often a failed delivery is retried: a handler runs up to 1 + maximum_retries times.
            0 sends the first failure straight to the dead letter.
        retry_channels_count: how many retry channels are consumed, at least maximum_retries. Set it higher after
            lowering maximum_retries, so that records that still wait above it are consumed. Default: maximum_retries.
        jitter: each delay grows by a random share of up to this much (0.1: up to 10 % later). A delay never
            shrinks: no retry comes early.
        order: ``free``: a retry waits in a retry channel and later events overtake it. ``key``: it is retried in its
            worker; until then later events of its key (or channel, as ``order_by`` says) wait behind it, and all
            others continue. Needs ``order_by``.
        maximum_waiting_keys: with ``order = "key"``: how many keys of one process may wait for a retry at once.
            When one more fails, its lane stops until that retry. Default: 100, at most half of mailbox.
    """

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "maximum_attempts": "maximum_retries",
        "retry_topics_count": "retry_channels_count",
    }
    """Keys by the names they had, which worker.toml may still use."""

    initial_interval_s: Interval = 1.0
    backoff_coefficient: Annotated[float, Meta(ge=1)] = 2.0
    maximum_interval_s: Interval | None = None
    maximum_retries: Count = 4
    retry_channels_count: Count | None = None
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0
    order: Literal["free", "key"] = "free"
    maximum_waiting_keys: Annotated[int, Meta(ge=1)] | None = None

    @property
    def channels_count(self) -> int:
        """How many retry channels exist: never fewer than maximum_retries."""
        return max(self.maximum_retries, self.retry_channels_count or 0)

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


def clamp_delay_s(after_s: float) -> float:
    """A delay asked for by a handler, made usable: not negative, not NaN, at most `MAX_DELAY_S`."""
    if math.isnan(after_s):
        return 0.0
    return min(max(after_s, 0.0), MAX_DELAY_S)


def due_after(now_ms: int, delay_s: float) -> int:
    """When a delay from now is over, by a clock that cuts its time to whole milliseconds: never early."""
    return now_ms + math.ceil(delay_s * 1000) + 1 if delay_s > 0 else now_ms
