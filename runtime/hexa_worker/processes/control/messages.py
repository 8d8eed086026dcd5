"""What is said on the control socket: one JSON object a line, in both directions.

A request names the version of this language that it is written in. A worker answers in it if it speaks it, and else
names those that it does speak. New fields may be added to a version: who does not know a field skips it.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from hexa_worker.core.controls import LogLevel

VERSION: Final = 1
VERSIONS: Final = (VERSION,)
"""What this worker speaks."""
MAX_LINE: Final = 64 * 1024
"""Bytes of one request."""


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """What is asked.

    Attributes:
        version: the version that it is written in.
    """

    version: int = VERSION


class AskStatus(Request, frozen=True, tag="status"):
    """How does everything stand?"""


class AskHistory(Request, frozen=True, tag="history"):
    """What was asked before?"""


class AskDump(Request, frozen=True, tag="dump"):
    """What does every lane do?"""


class PauseAction(Request, frozen=True, tag="pause", kw_only=True):
    """Pause a subscription.

    Attributes:
        action: its name.
        key: only what has this key.
    """

    action: str
    key: str | None = None


class ResumeAction(Request, frozen=True, tag="resume", kw_only=True):
    """Resume a subscription, with all its keys.

    Attributes:
        action: its name.
        key: only what has this key.
    """

    action: str
    key: str | None = None


class SetConcurrency(Request, frozen=True, tag="concurrency", kw_only=True):
    """Let another number of handler calls of a subscription run at once in each process, until the worker ends.

    Attributes:
        action: its name.
        concurrency: how many.
    """

    action: str
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Drain(Request, frozen=True, tag="drain"):
    """Drain all processes, and end."""


class Restart(Request, frozen=True, tag="restart"):
    """Read worker.toml again, and replace one process after the other."""


class Scale(Request, frozen=True, tag="scale", kw_only=True):
    """Have another number of processes.

    Attributes:
        processes: how many.
    """

    processes: Annotated[int, msgspec.Meta(ge=1, le=1024)]


class SetLogLevel(Request, frozen=True, tag="log-level", kw_only=True):
    """Log from another level on, until the worker ends.

    Attributes:
        level: the lowest level that is logged.
    """

    level: LogLevel


Change = PauseAction | ResumeAction | SetConcurrency | Drain | Restart | Scale | SetLogLevel
Asked = AskStatus | AskHistory | AskDump | Change


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """It will be done; the result follows.

    Attributes:
        version: of the answer.
        number: of the request, in the history.
        by: who has asked.
        at: when, ISO 8601.
    """

    version: int = VERSION
    number: int
    by: str
    at: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What became of it; the last answer to a request.

    Attributes:
        version: of the answer.
        ok: it is done everywhere.
        message: what became of it, for people.
        data: what was asked for.
    """

    version: int = VERSION
    ok: bool
    message: str = ""
    data: Any = None


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """It will not be done; the last answer to a request.

    Attributes:
        version: of the answer.
        code: ``version``, ``request`` (it cannot be understood), ``unknown`` (there is no such subscription), ``state``
            (not now) or ``limit``.
        message: why, for people.
        versions: what this worker speaks.
    """

    version: int = VERSION
    code: Literal["version", "request", "unknown", "state", "limit"]
    message: str
    versions: tuple[int, ...] = VERSIONS


Reply = Accepted | Done | Refused

_decoder = msgspec.json.Decoder(Asked)


class _Versioned(msgspec.Struct):
    version: int


_versioned = msgspec.json.Decoder(_Versioned)


def read_request(line: bytes) -> Asked | Refused:
    """Understand a line."""
    try:
        version = _versioned.decode(line).version
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Refused(code="request", message=f"this is no request: {error}")
    if version not in VERSIONS:
        spoken = ", ".join(map(str, VERSIONS))
        return Refused(code="version", message=f"this worker speaks version {spoken}, not {version}")
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Refused(code="request", message=f"this cannot be understood: {error}")


def write_line(value: Reply | Request) -> bytes:
    """A line."""
    return msgspec.json.encode(value) + b"\n"
