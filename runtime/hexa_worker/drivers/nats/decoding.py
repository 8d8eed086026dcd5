"""Frames that a consumer has got become deliveries. Pure."""

import msgspec

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.nats.ack_subjects import DELIVERED, STORED
from hexa_worker.drivers.nats.headers import Decoded
from hexa_worker.drivers.nats.protocol import Frame

MARKER = b"\r\nNats-Marker-Reason:"


class Token(msgspec.Struct, frozen=True):
    """A delivery's handle.

    Attributes:
        pull_consumer: number of its pull_consumer in its source.
        delivered: how often the server has delivered it, this time included.
        epoch: counts how often sequences have lost their meaning, see `PullConsumer.reset`.
    """

    pull_consumer: int
    delivered: int
    epoch: int


class FrameDecoder:
    """What turns frames of one consumer into deliveries.

    Args:
        number: the consumer's number, see `Token`.
        stream: what it reads.
        channel: the channel it reads; None for a retry ladder, whose subjects say it.
        epoch: see `Token`.
    """

    __slots__ = ("_channel", "_epoch", "_first", "_number", "_stream", "_tokens")

    def __init__(self, number: int, stream: str, channel: str | None, epoch: int) -> None:
        self._number = number
        self._stream = stream
        self._channel = channel
        self._tokens: dict[int, Token] = {}
        self.begin(epoch)

    def begin(self, epoch: int) -> None:
        """Sequences mean other messages from now on."""
        self._epoch = epoch
        self._tokens.clear()
        self._first = self._token(1)

    def _token(self, delivered: int) -> Token:
        token = self._tokens.get(delivered)
        if token is None:
            token = self._tokens[delivered] = Token(self._number, delivered, self._epoch)
        return token

    def decode(self, sequence: int, parts: list[bytes], frame: Frame) -> Delivery:
        """A message as the worker gets it.

        Args:
            sequence: its place in the stream.
            parts: what its reply subject says.
            frame: the message.
        """
        subject, _, block, payload = frame
        delivered, channel, attempt = parts[DELIVERED], self._channel, 0
        if channel is None:
            channel = subject.decode(errors="replace")
            attempt = _attempt(channel)
        stored_ms = int(parts[STORED]) // 1_000_000
        token = self._first if delivered == b"1" else self._token(int(delivered))
        if block is None:
            return Delivery(
                channel=channel,
                payload=payload,
                timestamp_ms=stored_ms,
                source=self._stream,
                offset=sequence,
                attempt=attempt,
                token=token,
            )
        decoded = Decoded(block)
        return Delivery(
            channel=channel,
            payload=payload,
            key=decoded.key,
            headers=decoded.headers,
            timestamp_ms=decoded.timestamp_ms or stored_ms,
            due_ms=decoded.due_ms,
            delay_ms=decoded.delay_ms,
            source=self._stream,
            offset=sequence,
            attempt=attempt,
            token=token,
        )


def is_marker(frame: Frame) -> bool:
    """Whether it only says that a message went by its age or was deleted.

    Servers leave that where a message was, on streams that ask for it (``subject_delete_marker_ttl``, 2.11).
    """
    block = frame[2]
    return block is not None and not frame[3] and MARKER in block


def _attempt(channel: str) -> int:
    """The number of a retry channel; anybody may have published to one that has none."""
    number = channel.rpartition(".")[2]
    return int(number) if number.isdecimal() and len(number) < 10 else 1  # noqa: PLR2004 - far beyond any policy
