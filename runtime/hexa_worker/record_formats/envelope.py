"""The JSON value that Go's hexa-event writes to Pulsar and NATS: ``{"header": {name: base64}, "payload": base64}``."""

from base64 import b64decode, b64encode

import msgspec

from hexa_worker.core.message import Headers

_encode = msgspec.json.Encoder(order="sorted").encode


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    header: dict[str, str | None] | None
    payload: str | None


_decode = msgspec.json.Decoder(_Envelope).decode


def pack(headers: Headers, payload: bytes) -> bytes:
    """One value out of headers and payload; of a repeated name the last header."""
    header = {_text(name): b64encode(value).decode("ascii") for name, value in headers}
    return _encode({"header": header, "payload": b64encode(payload).decode("ascii")})


def _text(name: str) -> str:
    return name.encode("utf-8", errors="replace").decode()


def unpack(value: bytes) -> tuple[Headers, bytes] | None:
    """The headers and the payload of a value; None when it is none of Go's."""
    if value[:1] != b"{":
        return None
    try:
        found = _decode(value)
        headers = tuple((name, _bytes(text)) for name, text in (found.header or {}).items())
        return headers, _bytes(found.payload)
    except (ValueError, RecursionError):  # msgspec's errors and base64's are ValueErrors
        return None


def _bytes(text: str | None) -> bytes:
    return b64decode(text, validate=True) if text else b""
