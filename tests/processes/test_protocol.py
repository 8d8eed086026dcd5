"""Frames between child and parent."""

import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.crash_attribution import InFlightId
from hexa_worker.processes.protocol import (
    FRAMES,
    MAX_FRAME,
    Frame,
    Heartbeat,
    Inbox,
    Link,
    Misconfigured,
    SettledFrame,
    StatusFrame,
    WireError,
)
from hexa_worker.telemetry.report import Report

SAMPLES: list[Frame] = [
    Heartbeat(),
    StatusFrame(Report(system="memory", booted=True)),
    Misconfigured("m", "w", "h"),
    SettledFrame([InFlightId("do", "work", 1)]),
]


@given(st.lists(st.sampled_from(SAMPLES), max_size=10), st.data())
def test_frames_arrive_whole_however_the_bytes_are_cut(frames: list[Frame], data: st.DataObject) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(theirs)
        for frame in frames:
            assert link.send(frame)
        theirs.shutdown(socket.SHUT_WR)
        content = ours.makefile("rb").read()
    inbox = Inbox(FRAMES)
    found: list[Frame] = []
    while content:
        cut = data.draw(st.integers(1, len(content)))
        found += inbox.feed(content[:cut])
        content = content[cut:]
    assert found == frames


@given(st.binary(max_size=64))
def test_noise_is_refused_or_waited_for_but_harms_nobody(noise: bytes) -> None:
    try:
        frames = Inbox(FRAMES).feed(noise)
    except WireError:
        return
    assert all(isinstance(frame, msgspec.Struct) for frame in frames)


def test_a_frame_beyond_all_measure_is_refused_at_once() -> None:
    with pytest.raises(WireError):
        Inbox(FRAMES).feed((MAX_FRAME + 1).to_bytes(4, "little"))


def test_a_parent_that_does_not_read_never_blocks_a_child_and_gets_whole_frames_later() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(theirs)
        big = StatusFrame(Report(system="x" * 50_000))
        sent = 0
        while link.send(big):
            sent += 1
        inbox = Inbox(FRAMES)
        found = drained(ours, inbox)
        assert link.send(Heartbeat())
        found += drained(ours, inbox)
        assert found == [*[big] * sent, Heartbeat()]


def drained(connection: socket.socket, inbox: Inbox[Frame]) -> list[Frame]:
    """What can be read now."""
    frames: list[Frame] = []
    connection.setblocking(False)
    while True:
        try:
            frames += inbox.feed(connection.recv(65536))
        except BlockingIOError:
            return frames


def test_last_words_to_a_dead_parent_do_not_matter() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        Link(theirs).send_final(Heartbeat())
