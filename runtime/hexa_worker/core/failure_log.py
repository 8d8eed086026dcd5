"""How often an event has failed in one subscription, and when: one header of its retries and its dead letter. Pure.

The count goes over redrives. Of the times the newest are kept, so that the header stays small: ``7:TIME,TIME,…``.
"""

import re
from typing import NamedTuple

FAILURES = "hexa-failures"
TIMES_LIMIT = 32
"""So many times are kept."""
_VALUE = re.compile(rb"([1-9][0-9]{0,8}):([0-9]{1,15}(?:,[0-9]{1,15}){0,%d})" % (TIMES_LIMIT - 1))


class FailureLog(NamedTuple):
    """What the header says.

    Attributes:
        failures: failed deliveries, all of them.
        times_ms: when they failed, the newest `TIMES_LIMIT`, oldest first; milliseconds since the epoch.
    """

    failures: int
    times_ms: tuple[int, ...]


def read_history(value: bytes | None) -> FailureLog | None:
    """The history that a header's value spells; None when it is absent or spells none."""
    found = None if value is None else _VALUE.fullmatch(value)
    if found is None:
        return None
    return FailureLog(int(found[1]), tuple(int(time) for time in found[2].split(b",")))


def with_failure(value: bytes | None, attempt: int, now_ms: int) -> bytes:
    """The header's value after one more failure.

    Args:
        value: what it was; where it spells no history, each retry so far stands for a failure of unknown time.
        attempt: of the delivery that failed.
        now_ms: when it did.
    """
    before = read_history(value)
    if before is None:
        return b"%d:%d" % (attempt + 1, now_ms)
    times = (*before.times_ms[1 - TIMES_LIMIT :], now_ms)
    return b"%d:%b" % (before.failures + 1, b",".join(b"%d" % time for time in times))
