"""What becomes of messages that are published together."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Message
from hexa_worker.drivers.nats.publisher import NatsPublisher
from hexa_worker.drivers.nats.streams import StreamAway
from hexa_worker.errors import DriverUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

OPTIONS: Any = SimpleNamespace(timeout_s=5.0)


class Server:
    """Streams and connection in one: it keeps every channel but `away`, and takes all that is sent."""

    max_payload = 1024 * 1024

    def __init__(self, away: str) -> None:
        self._away = away

    def known(self, channel: str) -> str | None:
        """None is remembered."""
        return {"": channel}.get(channel)

    def schedules(self, stream: str) -> bool:
        """It keeps nothing until it is due."""
        del stream
        return False

    async def channel(self, channel: str, *, emitted: bool) -> str:
        """Its stream has its name."""
        del emitted
        if channel == self._away:
            raise StreamAway("waiting until it is back")
        return channel

    async def wait_up(self, seconds: float) -> None:
        """It is up."""

    def expect(self, subjects: Sequence[bytes]) -> tuple[Any, list[bytes]]:
        """An answer for each."""
        frames = [(b"", b"", None, b'{"stream":"%s","seq":1}' % subject) for subject in subjects]
        return SimpleNamespace(frames=frames), [b"reply"] * len(subjects)

    def write(self, data: bytes) -> None:
        """Take it."""

    async def gather(self, answers: Any) -> None:
        """They are there."""


def publisher(away: str) -> NatsPublisher:
    """Of a server that lacks one stream."""
    server: Any = Server(away)
    return NatsPublisher(server, server, OPTIONS, SystemClock())


async def test_a_stream_that_is_away_keeps_no_other_channels_messages_from_being_stored() -> None:
    messages = [Message(channel=channel, payload=b"x") for channel in ("gone", "there", "gone")]
    before, stored, behind = await publisher("gone").publish(messages)
    assert isinstance(before, DriverUnavailable)
    assert stored == "there-1"
    assert isinstance(behind, DriverUnavailable)


async def test_messages_of_nothing_but_streams_that_are_away_are_not_confirmed() -> None:
    with pytest.raises(DriverUnavailable, match="waiting until it is back"):
        await publisher("gone").publish([Message(channel="gone", payload=b"x")])
