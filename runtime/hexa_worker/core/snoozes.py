"""How a snoozed delivery says how often it was, and which attempt it still is. Pure.

A snooze consumes no attempt, yet what waits in a retry channel is read as the attempt of that channel. So the record
says in a header what it is. A retry in its place has no record: there both are one number in the driver's note.
"""

import re

from hexa_worker.core.message import Delivery

_SHIFT = 16
_VALUE = re.compile(rb"([1-9][0-9]{0,6})(?::([0-9]{1,4}))?")


def spelled(snoozes: int, attempt: int | None = None) -> bytes:
    """The header's value; `attempt` is said where the record's channel stands for another one."""
    return b"%d" % snoozes if attempt is None else b"%d:%d" % (snoozes, attempt)


def read(value: bytes | None, attempt: int) -> tuple[int, int]:
    """Attempt and snoozes of a record from the retry channel of `attempt`; a value that spells none changes nothing."""
    found = None if value is None else _VALUE.fullmatch(value)
    if found is None:
        return attempt, 0
    return attempt if found[2] is None else min(attempt, int(found[2])), int(found[1])


def packed(delivery: Delivery) -> int:
    """What a driver notes as the attempt of a delivery that waits in its place."""
    return delivery.attempt | delivery.snoozes << _SHIFT


def unpacked(note: int) -> tuple[int, int]:
    """Attempt and snoozes of such a note."""
    return note & (1 << _SHIFT) - 1, note >> _SHIFT
