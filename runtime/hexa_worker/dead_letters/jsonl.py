"""Dead letters as JSON lines, byte for byte. Pure.

``{"id": …, "action": …, "key": …, "headers": [[name, value], …], "payload": …}``: bytes that are UTF-8 are strings, all
others ``{"base64": …}``. All of a letter's story is in its headers, so it needs no fields of its own.
"""

import binascii
from base64 import b64decode, b64encode
from hashlib import blake2b

import msgspec

from hexa_worker.core.lineage import EVENT_ID, REDRIVEN_FROM
from hexa_worker.core.message import Headers, Message, header
from hexa_worker.core.settlement import DEAD_AT
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter


class Encoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are no text."""

    base64: str


Written = str | Encoded
"""Bytes as they are written."""


class DeadLetterLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One dead letter.

    Attributes:
        id: where it was when it was exported; nothing depends on it.
        action: the subscription it belongs to.
    """

    id: str | None = None
    action: str
    key: Written | None = None
    headers: list[tuple[Written, Written]] = []
    payload: Written


_decode = msgspec.json.Decoder(DeadLetterLine).decode
_encode = msgspec.json.Encoder().encode


def line_of(letter: StoredDeadLetter) -> bytes:
    """`letter` as a line, without its newline."""
    delivery = letter.delivery
    headers = [(_written_name(name), _written(value)) for name, value in delivery.headers]
    key = None if delivery.key is None else _written(delivery.key)
    line = DeadLetterLine(
        id=letter.id, action=letter.action, key=key, headers=headers, payload=_written(delivery.payload)
    )
    return _encode(line)


def _written(value: bytes) -> Written:
    """Text where that is no longer than base64 could be at worst: control characters take six bytes each."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _base64(value)
    return text if len(_encode(text)) <= 2 * len(value) + 2 else _base64(value)


def _written_name(name: str) -> Written:
    try:
        name.encode()
    except UnicodeEncodeError:  # no broker's client makes such names today
        return _base64(name.encode(errors="surrogateescape"))
    return name


def _base64(value: bytes) -> Encoded:
    return Encoded(b64encode(value).decode())


def parse_line(line: bytes) -> tuple[str, Message]:
    """The action that `line` names, and the letter's record, its channel left open.

    Raises:
        ValueError: it spells no dead letter; the text says why.
    """
    try:
        line.decode()
        parsed = _decode(line)
        headers = tuple((_read(name).decode(errors="surrogateescape"), _read(value)) for name, value in parsed.headers)
        key = None if parsed.key is None else _read(parsed.key)
        return parsed.action, Message(channel="", payload=_read(parsed.payload), key=key, headers=headers)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from None
    except msgspec.ValidationError as error:
        raise ValueError(f"not a dead letter: {error}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None


def _read(value: Written) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    try:
        return b64decode(value.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None


def identity(payload: bytes, key: bytes | None, headers: Headers) -> bytes:
    """What makes two records the same dead letter, also after a broker that reorders or adds headers."""
    told = [header(headers, name) or b"" for name in (EVENT_ID, DEAD_AT, REDRIVEN_FROM)]
    digest = blake2b(digest_size=16)
    for part in (payload, key or b"", *told):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
