"""Changing dead letters on their way back: the hook of ``dlq redrive --transform``. Pure, as far as the hook is."""

from collections.abc import Callable

import msgspec

from hexa_worker.core.lineage import PREFIX
from hexa_worker.core.message import Headers
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter


class Draft(msgspec.Struct, kw_only=True):
    """What a hook may change of a dead letter before it goes round again.

    Attributes:
        payload: the encoded payload.
        key: the event's key, or None.
        headers: the event's own headers, in order; a name may repeat. Ids and the rest of the lineage stay as they
            are and are not among them.
        letter: everything that is known of it; to be read only.
    """

    payload: bytes
    key: bytes | None
    headers: list[tuple[str, bytes]]
    letter: StoredDeadLetter


Hook = Callable[[Draft], object]
"""Changes the draft in place; what it returns is ignored. Raising leaves the dead letter where it is."""


class EditFailed(Exception):
    """A hook raised, or left something that is no record."""


def edited(letter: StoredDeadLetter, hook: Hook) -> StoredDeadLetter:
    """`letter` with what `hook` made of it.

    Raises:
        EditFailed: see there.
    """
    delivery = letter.delivery
    draft = Draft(payload=delivery.payload, key=delivery.key, headers=list(letter.user_headers), letter=letter)
    try:
        hook(draft)
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise EditFailed(f"the hook raised {type(error).__qualname__}: {' '.join(str(error).split())}") from error
    own = _checked(draft)
    headers = delivery.headers
    if own != letter.user_headers:
        headers = (*[pair for pair in headers if pair[0].startswith(PREFIX)], *own)
    changed = msgspec.structs.replace(delivery, payload=draft.payload, key=draft.key, headers=headers)
    return msgspec.structs.replace(letter, delivery=changed)


def _checked(draft: Draft) -> Headers:
    """The headers of a draft that can be stored."""
    if not isinstance(draft.payload, bytes):
        raise EditFailed(f"the hook left a payload that is no bytes but {type(draft.payload).__qualname__}")
    if draft.key is not None and not isinstance(draft.key, bytes):
        raise EditFailed(f"the hook left a key that is neither bytes nor None but {type(draft.key).__qualname__}")
    try:
        headers = msgspec.convert(draft.headers, list[tuple[str, bytes]], builtin_types=(bytes,))
    except msgspec.ValidationError:
        raise EditFailed("the hook left headers that are not a list of pairs of a name and bytes") from None
    for name, _ in headers:
        if name.startswith(PREFIX):
            raise EditFailed(f"the hook left a header {name!r}: names that start with {PREFIX} are the runtime's")
    return tuple(headers)
