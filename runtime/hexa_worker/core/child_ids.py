"""Ids of the events that a handler emits: an emit that a retry repeats is one event to deduplication. Pure.

An id is made of the parent, the action and all that the event says, so it does not depend on the order of concurrent
emits, and an emit that says something else on the next attempt is another event: nothing is taken for a duplicate that
is none. Of emits that say the same in one run of a handler the second is told apart from the first by its number.
"""

import re
from typing import Any

import msgspec

from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Headers

_encode = msgspec.msgpack.Encoder().encode
_TIME = re.compile(r"([0-9a-f]{12})-(?:[0-9a-f]{16}|[0-9a-f]{32})(?:-[0-9a-f]+)?")
_NO_TIME = "0" * 12


def not_before_ms(event_id: str) -> int:
    """Before this time an event was not emitted, milliseconds since the epoch, as far as its id tells; 0: unknown.

    The id of a child begins with the time of the first event of its tree.
    """
    found = _TIME.fullmatch(event_id)
    return int(found[1], 16) if found else 0


class Handled(Lineage):
    """The lineage of an event that is being handled: names what its handler emits."""

    _action: str
    _counts: dict[bytes, int]

    @classmethod
    def of(cls, lineage: Lineage, action: str) -> "Handled":
        """The lineage of an event that `action` handles."""
        handled = cls(*lineage)
        handled._action = action
        handled._counts = {}
        return handled

    def child_id(self, channel: str, key: bytes | None, headers: Headers, payload: bytes) -> str:
        """The id of the next event that is emitted with this content."""
        from hashlib import blake2b  # noqa: PLC0415 - loads OpenSSL, which a worker that emits nothing needs not

        said: tuple[Any, ...] = (self.event_id, self._action, channel, key, headers, payload)
        digest = blake2b(_encode(said), digest_size=16).digest()
        number = self._counts[digest] = self._counts.get(digest, -1) + 1
        time = _TIME.fullmatch(self.event_id)
        child_id = f"{time[1] if time else _NO_TIME}-{digest.hex()}"
        return f"{child_id}-{number:x}" if number else child_id
