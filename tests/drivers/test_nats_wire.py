"""The nats driver's pure parts: names, headers, and the parser, whatever the cuts between reads."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from hexa_worker.core.message import Message
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.headers import Decoded, encode
from hexa_worker.drivers.nats.protocol import Frame, FrameParser, status_of
from hexa_worker.errors import DriverRejected

CHANNELS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="*>$\x7f"), min_size=1)
PAIRS = st.tuples(st.text(min_size=1, max_size=20), st.binary(max_size=40))


@given(CHANNELS, CHANNELS)
def test_different_channels_have_different_streams(one: str, other: str) -> None:
    assert (names.token(one) == names.token(other)) == (one == other)


@given(CHANNELS)
def test_names_of_streams_hold_only_what_servers_take(channel: str) -> None:
    name = names.retry_stream(channel * 30)
    assert len(name) < 255
    assert name.isascii()
    assert not set(name) & set(" .*>/\\%\t")


@pytest.mark.parametrize("bad", ["", "a b", "a..b", ".a", "a.", "a.*", ">", "$JS.x", "a\nb", "_INBOX.x", "x" * 1001])
def test_what_is_no_subject_is_refused(bad: str) -> None:
    with pytest.raises(DriverRejected):
        names.check_channel(bad)


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_wildcards_cover_what_the_server_says(pattern: str, subject: str, covered: bool) -> None:
    assert names.covers(pattern, subject) == covered


def test_a_schedule_says_when_it_is_due_and_has_a_subject_of_its_own() -> None:
    one = names.schedule_subject("x.retry.1", 12345, "a")
    assert names.due_of_schedule(one) == 12345
    assert one != names.schedule_subject("x.retry.1", 12345, "b")
    assert names.due_of_schedule("x.retry.1") is None


@given(st.lists(PAIRS, max_size=6), st.none() | st.binary(max_size=20), st.integers(0, 10**12))
def test_headers_key_and_due_time_survive(pairs: list[tuple[str, bytes]], key: bytes | None, due_ms: int) -> None:
    pairs = [(name, value) for name, value in pairs if name.encode("utf-8", "replace").decode() == name]
    message = Message(channel="c", payload=b"", key=key, headers=tuple(pairs), due_ms=due_ms)
    block = encode(message, "id", 0)
    decoded = Decoded(block)
    assert decoded.headers == tuple(pairs)
    assert decoded.key == key
    assert decoded.due_ms == due_ms
    assert block.count(b"\r\n\r\n") == 1
    assert block.endswith(b"\r\n\r\n")


@given(st.binary(max_size=200))
def test_any_header_block_can_be_read(block: bytes) -> None:
    Decoded(b"NATS/1.0\r\n" + block + b"\r\n\r\n")


class _Client:
    """Notes what goes to nats-py."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    async def _process_ping(self) -> None:
        self.calls.append("ping")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.calls.append(info)

    async def _process_err(self, text: str) -> None:
        self.calls.append(text)


WIRE = (
    b"MSG a.b 7 $JS.ACK.x 5\r\nhello\r\n"
    b"PING\r\n"
    b"HMSG c.d 7 r 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nab\r\n"
    b'INFO {"a": 1}\r\n'
    b"MSG e 8 0\r\n\r\n"
    b"MSG unknown 9 2\r\nxx\r\n"
    b"+OK\r\n"
    b"-ERR 'Permissions Violation'\r\n"
    b"MSG a.b 7 4\r\n\r\n\r\n\r\n"
)
FRAMES: dict[bytes, list[Frame]] = {
    b"7": [
        (b"a.b", b"$JS.ACK.x", None, b"hello"),
        (b"c.d", b"r", b"NATS/1.0\r\nk: v\r\n\r\n", b"ab"),
        (b"a.b", b"", None, b"\r\n\r\n"),
    ],
    b"8": [(b"e", b"", None, b"")],
}


def _parse(pieces: list[bytes]) -> tuple[dict[bytes, list[Frame]], list[object]]:
    client, got = _Client(), dict[bytes, list[Frame]]()
    parser = FrameParser(client)
    for sid in (b"7", b"8"):
        parser.sinks[sid] = got.setdefault(sid, []).extend

    async def run() -> None:
        for piece in pieces:
            await parser.parse(piece)

    asyncio.run(run())
    return got, client.calls


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(WIRE)), max_size=12))
def test_frames_are_the_same_wherever_the_reads_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    got, calls = _parse([WIRE[start:end] for start, end in itertools.pairwise(edges)])
    assert got == FRAMES
    assert calls == ["ping", {"a": 1}, "'permissions violation'"]


@pytest.mark.parametrize("wire", [b"HTTP/1.1 400\r\n", b"MSG a 1 x\r\n", b"MSG\r\n", b"x" * 70_000])
def test_what_is_not_nats_is_a_protocol_error(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        _parse([wire])


def test_a_sink_that_fails_does_not_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    parser = FrameParser(_Client())
    parser.sinks[b"7"] = lambda frames: [frames[5]]  # type: ignore[assignment]  # it fails
    asyncio.run(parser.parse(b"MSG a 7 1\r\nx\r\n"))
    assert "could not be handled" in caplog.text


def test_the_status_of_a_frame_is_its_first_line() -> None:
    assert status_of(b"NATS/1.0 409 Consumer Deleted\r\n\r\n") == (409, "Consumer Deleted")
    assert status_of(b"NATS/1.0\r\nk: v\r\n\r\n") == (0, "")
    assert status_of(None) == (0, "")
