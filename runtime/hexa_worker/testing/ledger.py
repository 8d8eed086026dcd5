"""The ledger: what really happened, written down outside of the system under test.

Each process of a test appends to a file of its own, one `write` per line, so that a line that was written
survives ``kill -9``. The times are `time.monotonic`, which all processes of a machine share. What a ledger
and a final look at the broker say together is judged by `hexa_worker.testing.judge`.

`middleware` writes the handler's side: name ``hexa_worker.testing.ledger:middleware`` in worker.toml and set
`HEXA_WORKER_LEDGER` to a folder.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from hexa_worker.core.outcome import Ack, Drop, Retry, Snooze
from hexa_worker.subscriptions.api import BatchContext, Context, Middleware, Next

VARIABLE = "HEXA_WORKER_LEDGER"
CANCELLED = "cancelled"

What = Literal["emit_begin", "emit_ok", "emit_unknown", "handle_start", "handle_ok", "handle_error", "dying"]


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line.

    Attributes:
        what: what happened.
        at: when, in seconds of the machine's monotonic clock.
        pid: in which process.
        token: joins the lines of one emit.
        event: the event id; of ``emit_begin`` only when the emitter chose it.
        root: the root id.
        action: the subscription (handler's lines).
        attempt: as the handler saw it.
        snoozes: the same.
        channel: where an event was emitted to, or a delivery was read from.
        key: the event's key, as text.
        payload: a hash of the payload.
        error: class of what the handler raised; `CANCELLED` when it was cancelled.
        after_s: the delay a handler asked for, in seconds.
    """

    what: What
    at: float
    pid: int
    token: str = ""
    event: str = ""
    root: str = ""
    action: str = ""
    attempt: int = 0
    snoozes: int = 0
    channel: str = ""
    key: str | None = None
    payload: str = ""
    error: str = ""
    after_s: float | None = None

    @property
    def turn(self) -> int:
        """How many records of the event came before this one: each retry is one, and each snooze."""
        return self.attempt + self.snoozes


def payload_hash(payload: bytes) -> str:
    """A short hash that tells payloads apart."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


class LedgerLines:
    """What is written; where to is decided by `_keep`.

    Args:
        pid: the process number in every line.
        monotonic: the clock of every line.
    """

    def __init__(self, pid: int, monotonic: Callable[[], float]) -> None:
        self.pid = pid
        self._monotonic = monotonic

    def _write(self, what: What, **fields: Any) -> None:
        self._keep(LedgerEntry(what=what, at=self._monotonic(), pid=self.pid, **fields))

    def _keep(self, entry: LedgerEntry) -> None:
        raise NotImplementedError

    def emit_begin(self, channel: str, payload: bytes, key: str | None = None, event: str = "") -> str:
        """An emit is about to be tried; returns the token for its result."""
        token = uuid.uuid4().hex
        self._write("emit_begin", token=token, channel=channel, key=key, payload=payload_hash(payload), event=event)
        return token

    def emit_ok(self, token: str, event: str) -> None:
        """The broker confirmed it; from now on it must not be lost."""
        self._write("emit_ok", token=token, event=event)

    def emit_unknown(self, token: str) -> None:
        """It failed, or nobody knows: it may end either way."""
        self._write("emit_unknown", token=token)

    def handle_start(self, context: Context[Any]) -> None:
        """A handler is about to run."""
        self._handled("handle_start", context)

    def handle_ok(self, context: Context[Any]) -> None:
        """It succeeded: its effect is done."""
        self._handled("handle_ok", context)

    def handle_error(self, context: Context[Any], error: BaseException) -> None:
        """It failed, or was cancelled."""
        cancelled = not isinstance(error, Exception)
        after_s = error.after if isinstance(error, Retry | Snooze) else None
        name = CANCELLED if cancelled else type(error).__qualname__
        self._handled("handle_error", context, error=name, after_s=after_s)

    def dying(self) -> None:
        """Note that this process is about to kill itself on purpose."""
        self._write("dying")

    def _handled(self, what: What, context: Context[Any], **fields: Any) -> None:
        self._write(
            what,
            event=context.event_id,
            root=context.root_id,
            action=context.action,
            attempt=context.attempt,
            snoozes=context.snoozes,
            channel=context.read_from,
            key=context.key,
            payload=payload_hash(context.delivery.payload),
            **fields,
        )


class Ledger(LedgerLines):
    """One process's file.

    Args:
        folder: where it is made, under a name of its own.
        pid: another process number than the real one; for simulated processes.
        monotonic: another clock; for simulated time.

    Ownership: the file stays open until the process ends or `close`.
    """

    def __init__(
        self, folder: Path, *, pid: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(os.getpid() if pid is None else pid, monotonic)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{self.pid}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _keep(self, entry: LedgerEntry) -> None:
        os.write(self._file, self._encode(entry) + b"\n")


@cache
def process_ledger() -> Ledger:
    """Return the ledger of this process in the folder that `HEXA_WORKER_LEDGER` names."""
    return Ledger(Path(os.environ[VARIABLE]))


async def middleware(payload: Any, context: Any, call_next: Next) -> Any:
    """Write down each delivery's start and end, in this process's ledger."""
    return await _recorded(process_ledger(), payload, context, call_next)


def recording(ledger: LedgerLines) -> Middleware:
    """As `middleware`, with a ledger of one's own."""

    async def record(payload: Any, context: Any, call_next: Next) -> Any:
        return await _recorded(ledger, payload, context, call_next)

    return record


async def _recorded(ledger: LedgerLines, payload: Any, context: Any, call_next: Next) -> Any:
    contexts: Sequence[Context[Any]] = context.items
    for one in contexts:
        ledger.handle_start(one)
    try:
        result = await call_next(payload, context)
    except BaseException as error:
        for one in contexts:
            _write_end(ledger, one, error)
        raise
    results = result if isinstance(context, BatchContext) and isinstance(result, Sequence) else [result] * len(contexts)
    for one, each in zip(contexts, results, strict=False):
        _write_end(ledger, one, each)
    return result


def _write_end(ledger: LedgerLines, context: Context[Any], end: object) -> None:
    """Write how one delivery ended, raised or returned; `Ack` and `Drop` are successes."""
    if isinstance(end, BaseException) and not isinstance(end, Ack | Drop):
        ledger.handle_error(context, end)
    else:
        ledger.handle_ok(context)


def read(folder: Path) -> list[LedgerEntry]:
    """All entries of all processes, in the order of time.

    Raises:
        ValueError: a line is no entry; only the last line of a file may be torn.
    """
    entries = [entry for path in sorted(folder.glob("*.jsonl")) for entry in _read_file(path)]
    return sorted(entries, key=lambda entry: entry.at)


def _read_file(path: Path) -> Iterator[LedgerEntry]:
    decode = msgspec.json.Decoder(LedgerEntry).decode
    *lines, torn = path.read_bytes().split(b"\n")
    del torn  # empty, or cut off by a full disk
    for number, line in enumerate(lines, start=1):
        try:
            yield decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
