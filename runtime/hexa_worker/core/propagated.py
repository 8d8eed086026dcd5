"""What an event takes over from the one it was emitted for: correlation id, user, locale and trace.

They travel as headers. A child takes them from its parent's record as they are (`ctx.emit`); an application gives
them with the event it emits. `_ctx_user` and `_ctx_locale` are hexa-event's names and forms, on every wire.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import fields

from hexa_worker.core.lineage import CORRELATION_ID
from hexa_worker.core.message import Headers

LOCALE = "_ctx_locale"
USER = "_ctx_user"
REPLY_TO = "_reply_channel"
"""Where an answer is expected: hexa-event's name, on every wire. No child takes it over."""
TRACE_PARENT = "traceparent"
TRACE_STATE = "tracestate"
CARRIED = frozenset({CORRELATION_ID, LOCALE, USER, TRACE_PARENT, TRACE_STATE})

_HTML = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_LARGEST_USER = 64 * 1024
"""A user of more bytes is none: nobody pays for reading it."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf an event happened (hexa-event's user; the default is its guest).

    Attributes:
        type: ``_guest``, ``_regular`` or ``_service``.
        identifier: the user's id.
        email: or empty.
        phone: or empty.
        name: for people to read.
        username: the login name.
        is_active: whether the account is in use.
        roles: names of roles.
    """

    email: str = msgspec.field(default="", name="_user_email")
    identifier: str = msgspec.field(default="_guest_id", name="_user_identifier")
    is_active: bool = msgspec.field(default=False, name="_user_is_active")
    name: str = msgspec.field(default="_guest", name="_user_name")
    phone: str = msgspec.field(default="", name="_user_phone")
    roles: tuple[str, ...] = msgspec.field(default=(), name="_user_roles")
    type: str = msgspec.field(default="_guest", name="_user_type")
    username: str = msgspec.field(default="_guest_username", name="_user_username")


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(User).decode


def user_bytes(user: User) -> bytes:
    r"""A user as Go writes it: keys sorted, no spaces, ``<``, ``>``, ``&`` and two line separators as ``\uXXXX``."""
    return _HTML.sub(_escaped, _encode(user))


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match.group().decode())


def read_user(value: bytes | None) -> User | None:
    """The user that a header says; None when it is absent or says none."""
    if value is None or len(value) > _LARGEST_USER:
        return None
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_whole_user(value: bytes) -> bool:
    """Whether a header says a user with all its keys: hexa-event, in Go, panics without one of them."""
    try:
        _decode_whole(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


_WHOLE: Any = msgspec.defstruct(
    "WholeUser", [(one.encode_name, list[str] if one.name == "roles" else one.type) for one in fields(User)]
)
_decode_whole = msgspec.json.Decoder(_WHOLE).decode
GUEST = user_bytes(User())


def whole_user(value: bytes) -> bytes:
    """What a header says of a user with all keys: as it is, completed, or the guest when it says none."""
    if is_whole_user(value):
        return value
    user = read_user(value)
    return GUEST if user is None else user_bytes(user)


def carried_from(headers: Headers) -> Headers:
    """What a child takes over from a record with `headers`; of a repeated name the last one."""
    found = {name: value for name, value in headers if name in CARRIED}
    return tuple(found.items())


def carried_headers(*, correlation_id: str | None, user: User | None, locale: str | None) -> Headers:
    """The headers of what an application says with an event."""
    pairs: list[tuple[str, bytes]] = []
    if correlation_id is not None:
        pairs.append((CORRELATION_ID, correlation_id.encode(errors="replace")))
    if locale is not None:
        pairs.append((LOCALE, locale.encode(errors="replace")))
    if user is not None:
        pairs.append((USER, user_bytes(user)))
    return tuple(pairs)


def unless_said(carried: Headers, names: Iterable[str]) -> Headers:
    """`carried` less what the event says itself."""
    said = frozenset(names)
    return tuple(pair for pair in carried if pair[0] not in said)
