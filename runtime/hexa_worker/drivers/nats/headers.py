"""Headers on the wire: bytes, repeated names, their order and the event's key survive.

A pair that NATS can carry as it is goes as a line of its own, so that foreign readers understand it. Any other
pair (bytes beyond visible ASCII, outer spaces, odd names, names the server itself understands) goes as
``hexa-pct: name=value``, both percent-encoded. The key goes as ``hexa-key``, percent-encoded.
"""

import re
from functools import lru_cache

from hexa_worker.core.message import Headers, Message
from hexa_worker.drivers.kit.header_escaping import quoted, quoted_pair, unquoted

KEY = "hexa-key"
DUE = "hexa-due-ms"
DELAY = "hexa-delay-ms"
TIME = "hexa-time-ms"
PERCENT = "hexa-pct"
_OURS = frozenset({KEY, DUE, DELAY, TIME, PERCENT})
_STALE_MS = 1_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VALUE = re.compile(rb"(?:[!-~](?:[ -~]*[!-~])?)?")


@lru_cache(maxsize=1024)
def _plain_name(name: str) -> bytes | None:
    """The name as bytes, if it can go as it is."""
    if _NAME.fullmatch(name) is None or name.lower().startswith("nats-") or name.lower() in _OURS:
        return None
    return name.encode("ascii")


def encode(message: Message, message_id: str | None, now_ms: int, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The header block of a message, with both its ends.

    Args:
        message: whose key, headers, due time and (if it is not now) timestamp are written down.
        message_id: what the server tells repetitions by.
        now_ms: the wall clock.
        extra: instructions to the server.
    """
    lines = [b"NATS/1.0"]
    if message_id is not None:
        lines.append(b"Nats-Msg-Id: " + message_id.encode("ascii"))
    lines.extend([f"{name}: {value}".encode() for name, value in extra])
    if message.key is not None:
        lines.append(b"hexa-key: " + quoted(message.key).encode())
    if message.due_ms:
        lines.append(b"hexa-due-ms: %d" % message.due_ms)
        if 0 < message.timestamp_ms <= message.due_ms:
            lines.append(b"hexa-delay-ms: %d" % (message.due_ms - message.timestamp_ms))
    if message.timestamp_ms and abs(message.timestamp_ms - now_ms) > _STALE_MS:
        lines.append(b"hexa-time-ms: %d" % message.timestamp_ms)
    for name, value in message.headers:
        plain = _plain_name(name)
        if plain is not None and _VALUE.fullmatch(value) is not None:
            lines.append(plain + b": " + value)
        else:
            lines.append(b"hexa-pct: " + quoted_pair(name, value).encode())
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


@lru_cache(maxsize=4096)
def _name(name: bytes) -> str:
    return name.decode("utf-8", errors="replace")


class Decoded:
    """A header block, read.

    Attributes:
        headers: the event's headers.
        key: its key.
        due_ms: when it is due; 0: at once.
        delay_ms: how long before that it was written, by the clock of whoever wrote it; 0: not known.
        timestamp_ms: when it was written, if that is not when it was stored; 0 otherwise.
    """

    __slots__ = ("delay_ms", "due_ms", "headers", "key", "timestamp_ms")

    def __init__(self, block: bytes) -> None:
        self.key: bytes | None = None
        self.due_ms = self.delay_ms = 0
        self.timestamp_ms = 0
        pairs: list[tuple[str, bytes]] = []
        for line in block.split(b"\r\n")[1:-2]:
            raw, _, value = line.partition(b":")
            if raw[:5] == b"Nats-":
                continue
            value = value.strip(b" \t")
            if raw[:5] == b"hexa-" and self._control(raw, value, pairs):
                continue
            pairs.append((_name(raw), value))
        self.headers: Headers = tuple(pairs)

    def _control(self, name: bytes, value: bytes, pairs: list[tuple[str, bytes]]) -> bool:
        """Read a header of this module; others are left to the caller."""
        if name == b"hexa-key":
            self.key = unquoted(value)
        elif name == b"hexa-pct":
            first, _, rest = value.partition(b"=")
            pairs.append((unquoted(first).decode("utf-8", errors="replace"), unquoted(rest)))
        elif name == b"hexa-due-ms":
            self.due_ms = _number(value)
        elif name == b"hexa-delay-ms":
            self.delay_ms = _number(value)
        elif name == b"hexa-time-ms":
            self.timestamp_ms = _number(value)
        else:
            return False
        return True


def _number(value: bytes) -> int:
    """A number from outside; what is none is 0."""
    return int(value) if value.isdigit() and len(value) <= 15 else 0  # noqa: PLR2004 - beyond any time in milliseconds
