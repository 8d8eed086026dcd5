"""The ledger: lines that survive a kill, and what its middleware writes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from hexa_worker import Ack, BatchContext, Context, DeadLetter, Drop, Retry
from hexa_worker.core.message import Delivery
from hexa_worker.testing.ledger import CANCELLED, Ledger, payload_hash, read, recording


class Action:
    """As much of a runtime as a context needs."""

    action = "do"
    state = None


def context(event: str = "e", attempt: int = 0) -> Context[Any]:
    headers = (("hexa-event-id", event.encode()), ("hexa-root-id", b"r"))
    delivery = Delivery(channel="in", payload=b"p", key=b"k", headers=headers, source="in", offset=1, attempt=attempt)
    return Context(delivery, Action())  # type: ignore[arg-type]


def ends(tmp_path: Path, handler: Callable[[Any, Any], Any], ctx: Any = None) -> list[tuple[str, str, float | None]]:
    """What the middleware writes about one call of `handler`, its start left out."""
    ledger = Ledger(tmp_path)
    ctx = ctx or context()

    async def call() -> None:
        async def inner(payload: Any, ctx: Any) -> Any:
            return handler(payload, ctx)

        await recording(ledger)(b"p", ctx, inner)

    with suppress(Exception, KeyboardInterrupt):  # what the handler raised goes on to the worker
        anyio.run(call)
    return [(one.what, one.error, one.after_s) for one in read(tmp_path) if one.what != "handle_start"]


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def handler(_payload: Any, _ctx: Any) -> Any:
        raise error

    return handler


@pytest.mark.parametrize("result", [None, Ack(), Drop("no"), 42])
def test_returning_is_a_success(tmp_path: Path, result: object) -> None:
    assert ends(tmp_path, lambda *_: result) == [("handle_ok", "", None)]


@pytest.mark.parametrize("verdict", [Ack(), Drop("no")])
def test_raising_an_ack_is_a_success_too(tmp_path: Path, verdict: Exception) -> None:
    assert ends(tmp_path, raising(verdict)) == [("handle_ok", "", None)]


@pytest.mark.parametrize(
    ("verdict", "after_s"), [(ValueError("x"), None), (Retry(after=7), 7.0), (DeadLetter("no"), None)]
)
def test_failures_are_written_with_their_class(tmp_path: Path, verdict: Exception, after_s: float | None) -> None:
    expected = [("handle_error", type(verdict).__name__, after_s)]
    assert ends(tmp_path / "raised", raising(verdict)) == expected
    if not isinstance(verdict, ValueError):
        assert ends(tmp_path / "returned", lambda *_: verdict) == expected


def test_what_is_no_exception_is_written_as_cancelled(tmp_path: Path) -> None:
    assert ends(tmp_path, raising(KeyboardInterrupt())) == [("handle_error", CANCELLED, None)]


def test_a_batch_is_written_item_by_item(tmp_path: Path) -> None:
    batch = BatchContext((context("a"), context("b"), context("c")), Action())  # type: ignore[arg-type]
    written = ends(tmp_path, lambda *_: [None, ValueError(), Retry(after=1)], batch)
    assert written == [("handle_ok", "", None), ("handle_error", "ValueError", None), ("handle_error", "Retry", 1.0)]
    assert [one.event for one in read(tmp_path)] == ["a", "b", "c"] * 2


def test_a_line_says_all_about_its_delivery(tmp_path: Path) -> None:
    before = time.monotonic()
    ledger = Ledger(tmp_path)
    ledger.handle_start(context("e", attempt=2))
    (entry,) = read(tmp_path)
    assert (entry.what, entry.event, entry.root, entry.action) == ("handle_start", "e", "r", "do")
    assert (entry.attempt, entry.channel, entry.key, entry.payload) == (2, "in", "k", payload_hash(b"p"))
    assert entry.pid == os.getpid()
    assert before <= entry.at <= time.monotonic()


def test_the_lines_of_several_ledgers_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    token = one.emit_begin("in", b"p")
    other.dying()
    one.emit_ok(token, "e")
    assert [entry.what for entry in read(tmp_path)] == ["emit_begin", "dying", "emit_ok"]


def test_every_written_line_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from hexa_worker.testing.ledger import Ledger\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "for number in range(500): ledger.emit_begin('in', b'%d' % number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    assert len(read(tmp_path)) == 500


def test_a_torn_last_line_is_left_out_and_a_bad_one_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.dying()
    with ledger.path.open("ab") as file:
        file.write(b'{"what": "dy')
    assert len(read(tmp_path)) == 1
    with ledger.path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match=f"{ledger.path.name}:2"):
        read(tmp_path)
