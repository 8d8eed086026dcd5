"""Log lines are written at once, never waited for, and counted when they are lost."""

import fcntl
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexa_worker.telemetry import sink
from hexa_worker.telemetry.sink import LineHandler


@contextmanager
def piped() -> Iterator[tuple[int, LineHandler]]:
    """A pipe's reading end, and a handler that writes to the other one."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        yield reading, LineHandler(writing)
    finally:
        for one in (reading, writing):
            with suppress(OSError):
                os.close(one)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 0.01)


def say(handler: LineHandler, text: str, *arguments: object) -> None:
    handler.handle(logging.LogRecord("a", logging.INFO, "where.py", 7, text, arguments, None))


def drain(reading: int, handler: LineHandler) -> list[str]:
    """Read until nothing is kept any more; the lines."""
    data = b""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(BlockingIOError):
            while more := os.read(reading, 1 << 16):
                data += more
        if not handler._kept:
            with suppress(BlockingIOError):
                data += os.read(reading, 1 << 20)
            return data.decode().splitlines()
        time.sleep(0.001)
    raise AssertionError("what was kept is never written")


def test_a_line_is_written_before_the_call_returns() -> None:
    with piped() as (reading, handler):
        say(handler, "one")
        assert os.read(reading, 100) == b"one\n"
        assert "log" not in [one.name for one in threading.enumerate() if one is handler._thread]


def test_nobody_waits_for_a_reader_and_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "KEPT_BYTES", 100_000)
    with piped() as (reading, handler):
        for number in range(1_000):
            say(handler, f"{number} {'x' * 2_000}")
        lines = drain(reading, handler)
        say(handler, "later")
        lines += drain(reading, handler)
    numbers = [int(line.split()[0]) for line in lines if line.endswith("x")]
    assert numbers == list(range(len(numbers)))
    assert 50 < len(numbers) < 150  # what the pipe and the handler keep
    assert lines[-2:] == [
        f"{1_000 - len(numbers)} log lines dropped: nobody read them, or they failed to write",
        "later",
    ]


def test_lines_of_a_burst_are_written_before_the_calls_return_while_somebody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 5.0)
    with piped() as (reading, handler):
        os.set_blocking(reading, True)

        def read() -> None:
            left = 200 * 2_001
            while left:
                left -= len(os.read(reading, left))

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(200):
            say(handler, "x" * 2_000)
            assert not handler._kept
        reader.join()


def test_a_slow_reader_costs_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 0.1)
    with piped() as (_reading, handler):
        began = time.monotonic()
        for _ in range(1_000):
            say(handler, "x" * 2_000)
        assert time.monotonic() - began < 1_000 * sink.PATIENCE_S / 2


def test_the_end_of_a_process_does_not_wait_long_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "FLUSH_S", 0.05)
    with piped() as (reading, handler):
        for _ in range(100):
            say(handler, "x" * 2_000)
        began = time.monotonic()
        handler.flush()
        assert time.monotonic() - began > 0.04
        drain(reading, handler)
        handler.flush()


def test_a_descriptor_that_others_share_stays_as_it_is() -> None:
    with piped() as (_reading, handler):
        say(handler, "one")
        assert not fcntl.fcntl(handler._descriptor, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_reader_that_has_gone_raises_nothing() -> None:
    with piped() as (reading, handler):
        os.close(reading)
        for _ in range(3):
            say(handler, "one")
        assert handler._dropped == 3


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    handler = LineHandler(descriptor)
    say(handler, "one")
    os.close(descriptor)
    assert handler._dropped == 1


@pytest.mark.parametrize("arguments", [("x",), (1, 2)])
def test_a_line_that_cannot_be_made_is_replaced_by_one_that_says_where(arguments: tuple[object, ...]) -> None:
    with piped() as (reading, handler):
        say(handler, "%d", *arguments)
        assert os.read(reading, 1_000) == b"a log line cannot be made: TypeError at where.py:7\n"


def test_a_socket_is_not_waited_for_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = LineHandler(ours.fileno())
        for number in range(1_000):
            say(handler, f"{number} {'x' * 2_000}")
        assert theirs.recv(2) == b"0 "
        assert ours.getblocking()


def test_a_descriptor_that_may_not_be_opened_again_is_written_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        reading, writing = os.pipe()
        handler = LineHandler(writing)
    for number in range(200):
        say(handler, f"{number} {'x' * 2_000}")
    os.set_blocking(reading, False)
    assert [line.split()[0] for line in drain(reading, handler)] == [str(number) for number in range(200)]


def test_a_forked_process_writes_nothing_that_its_parent_kept() -> None:
    with piped() as (reading, handler):
        for number in range(100):
            say(handler, f"{number} {'x' * 2_000}")
        child = os.fork()
        if not child:
            handler.flush()
            os._exit(len(handler._kept))
        assert os.waitpid(child, 0)[1] == 0
        assert [line.split()[0] for line in drain(reading, handler)] == [str(number) for number in range(100)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30_000) | st.none(), max_size=60))
def test_whatever_is_read_and_when_each_line_comes_once_in_order_or_is_counted(steps: list[int | None]) -> None:
    with piped() as (reading, handler), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "KEPT_BYTES", 50_000)
        lines: list[str] = []
        said = 0
        for step in steps:
            if step is None:
                lines += drain(reading, handler)
            else:
                say(handler, f"{said} {'x' * step}")
                said += 1
        lines += drain(reading, handler)
        say(handler, "end")
        lines += drain(reading, handler)
    assert lines.pop() == "end"
    lost = sum(int(line.split()[0]) for line in lines if "dropped" in line)
    numbers = [int(line.split()[0]) for line in lines if "dropped" not in line]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + lost == said


def test_python_itself_finds_nothing_to_complain_about(capfd: pytest.CaptureFixture[str]) -> None:
    with piped() as (_reading, handler):
        say(handler, "%s", object())
    assert sys.stderr is not None
    assert capfd.readouterr().err == ""
