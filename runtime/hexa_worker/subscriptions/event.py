"""What a handler or a service emits."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from hexa_worker.core.message import Headers
from hexa_worker.core.propagated import User


class _Addressed(msgspec.Struct, frozen=True):
    """What may be given without its name."""

    channel: str
    payload: Any = None


class Event(_Addressed, frozen=True, kw_only=True):
    """What a user emits: ``Event("orders", {"id": 1}, key="ada")``.

    Attributes:
        channel: where to.
        payload: bytes and str go out as they are, anything else as JSON.
        key: keeps its order among events of the same key, where a subscription asks for it.
        headers: names and values of your own; names that start with ``hexa-`` are reserved.
        id: the event id; None makes a new one. Emitting twice with one id is one event to deduplication.
        correlation_id: joins everything that one request or one process of the business made happen.
        user: on whose behalf.
        locale: the user's language, ``de-DE``.
        reply_to: the channel where an answer is expected: a value that a handler returns goes there.
        after: deliver it so much later, seconds or a `timedelta`.
        at: deliver it at this time, which has a time zone; one that has passed is now.
        expires_in: drop it, and do not run it, when so much time has passed since it could be delivered first.
        carried: headers taken over from another event, as they were on the wire; what the event says itself wins.
    """

    key: str | bytes | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    id: str | None = None
    correlation_id: str | None = None
    user: User | None = None
    locale: str | None = None
    reply_to: str | None = None
    after: float | timedelta | None = None
    at: datetime | None = None
    expires_in: float | timedelta | None = None
    carried: Headers = ()
